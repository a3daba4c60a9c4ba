"""Reads and clamps numbers that clients, engines and other gateways send, before they become state. Pure.

An odd number is not an error here, because the engine judges the request: it counts as the nearest one that can be
real. So sums of them stay exact as floats, and fit into messages between gateways.
"""

import re
from typing import Any, Final

MOST_SEQUENCES: Final = 1 << 16
"""Of one request. vLLM refuses an `n` above 16,384, but one request may have many prompts."""

MOST_PRIORITY: Final = 1 << 31
"""And its negative is the least."""

MOST_TOKENS: Final = 1 << 31
"""Of one request, as an engine counts them in `usage`."""

MOST_DIGITS: Final = 20
"""A longer number is beyond every bound. Python refuses to read one of more than 4,300 digits."""

_INTEGER: Final = re.compile(r"\s*([+-]?)([0-9]+(?:_[0-9]+)*)(?:\.0+)?\s*", re.ASCII)


def count_of(digits: bytes, most: int) -> int:
    """The number that these decimal digits are, however many there are, or `most` if that is less."""
    if len(digits) <= MOST_DIGITS:
        number = int(digits)
        return number if number <= most else most
    significant = digits.lstrip(b"0")
    return most if len(significant) > MOST_DIGITS else min(int(significant or b"0"), most)


def integer_of(value: Any, most: int) -> int | None:
    """A JSON value as vLLM takes it for an integer (4, 4.0, "4", "1_000"), from `-most` to `most`; None for others."""
    if isinstance(value, str):
        found = _INTEGER.fullmatch(value)
        if found is None:
            return None
        size = count_of(found[2].replace("_", "").encode(), most)
        return -size if found[1] == "-" else size
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(min(max(value, -most), most))
    return None


def parsed_integer(text: str) -> int:
    """For a JSON reader: an integer that keeps its sign, whatever its length."""
    if len(text) <= MOST_DIGITS:
        return int(text)
    return -(10**MOST_DIGITS) if text.startswith("-") else 10**MOST_DIGITS


def sequences_of(n: int | None, prompts: int) -> int:
    """How many sequences a request asks for: `n` for each prompt."""
    return min((n if n is not None and n > 0 else 1) * prompts, MOST_SEQUENCES)


def priority_of(priority: int) -> int:
    """A request's priority."""
    return min(max(priority, -MOST_PRIORITY), MOST_PRIORITY)
