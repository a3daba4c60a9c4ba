"""Decides whether a request is sent again, and when. Pure."""

import random
from dataclasses import dataclass
from typing import Final

AT_FIRST_SECONDS: Final = 0.5
MOST_SECONDS: Final = 30.0
_LATER: Final = (408, 429, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Failed:
    """One attempt that brought no answer that is worth keeping."""

    status: int | None
    """None if there was no answer at all."""
    retry_after: str = ""
    should_retry: str = ""
    """The headers of those names."""
    reason: str = ""
    """What the operating system, or the connection, said."""


def is_final(status: int, should_retry: str = "") -> bool:
    """Whether an answer with this status is the answer; others are asked for again."""
    return status not in _LATER or should_retry == "false"


def pause_seconds(failed: Failed, attempt: int, rng: random.Random) -> float:
    """How long to wait after the attempt of that number, counted from 1: twice as long each time, or as we are told."""
    longest = min(MOST_SECONDS, AT_FIRST_SECONDS * 2.0 ** min(attempt - 1, 10))
    told = float(failed.retry_after) if failed.retry_after.isascii() and failed.retry_after.isdigit() else 0.0
    # Not all at the same moment, and never before we were told to come.
    return min(told, 10 * MOST_SECONDS) + longest * rng.uniform(0.5, 1)
