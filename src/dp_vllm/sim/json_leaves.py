"""Texts and numbers that a JSON Schema allows."""

from __future__ import annotations

import math
from typing import Any, Final

from dp_vllm.sim import patterns
from dp_vllm.sim.errors import Refusal, bad_request

TEXT: Final = "simulated"
"""What a text is that may be any."""
_MOST_CHARS: Final = 10_000
_LARGEST: Final = 1e300
"""Bounds of numbers are smaller."""
_FORMATS: Final = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "simulated@example.com",
    "hostname": "simulated.example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/simulated",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def count(schema: dict[str, Any], name: str, most: int | None) -> int:
    count = schema.get(name, 0)
    if not isinstance(count, int | float) or isinstance(count, bool) or count < 0:
        raise bad_request(f"JSON schema: {name} must be a number that is not negative.")
    if most is not None and count > most:
        raise bad_request(f"JSON schema: {name} {count} is more than the {most} that are simulated.")
    return int(count)


def string(schema: dict[str, Any]) -> str:
    least = count(schema, "minLength", _MOST_CHARS)
    most = schema.get("maxLength")
    if isinstance(schema.get("pattern"), str):
        text = patterns.matching(schema["pattern"], least)
        if isinstance(most, int) and len(text) > most:
            raise bad_request(f"JSON schema: maxLength {most} is too short for the pattern as it is simulated.")
        return text
    known = _FORMATS.get(str(schema.get("format")))
    if known is not None:
        return known
    text = TEXT.ljust(least, ".")
    return text[:most] if isinstance(most, int) and not isinstance(most, bool) and most >= 0 else text


def number(schema: dict[str, Any], *, whole: bool) -> int | float:
    """A number within the bounds, 1 if that is one."""
    names = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
    numbers = {name: _bound(schema, name) for name in names}
    least, most = (_whole_bounds if whole else _real_bounds)(numbers)
    step = numbers["multipleOf"] or 0
    value = max(least, min(1, most))
    if step > 0 and math.isfinite(value):
        value = math.ceil(value / step) * step
        value = value if value <= most else math.floor(most / step) * step
    if not least <= value <= most or not math.isfinite(value) or (whole and value != int(value)):
        raise bad_request("JSON schema: no number that is simulated is within the bounds.")
    return int(value) if whole else value


def others(schema: dict[str, Any], value: Any, place: int) -> list[Any]:
    """What the schema allows instead of this value, where the items before this place have it already."""
    if "enum" in schema:
        return list(schema["enum"])
    if {"const", "anyOf", "oneOf", "pattern", "format"} & schema.keys():
        return []
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, str):
        most = schema.get("maxLength", _MOST_CHARS)
        text = value[: max(0, most - len(str(place)))] + str(place)
        return [text] if len(text) <= most else []
    if isinstance(value, int):
        try:
            return [number(schema | {"minimum": value + place * (schema.get("multipleOf") or 1)}, whole=True)]
        except Refusal:
            return []
    return []


def _bound(schema: dict[str, Any], name: str) -> float | None:
    value = schema.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < _LARGEST:
        raise bad_request(f"JSON schema: {name} must be a number.")
    return value


def _whole_bounds(numbers: dict[str, float | None]) -> tuple[float, float]:
    least, most = -math.inf, math.inf
    if (low := numbers["minimum"]) is not None:
        least = math.ceil(low)
    if (low := numbers["exclusiveMinimum"]) is not None:
        least = max(least, math.floor(low) + 1)
    if (high := numbers["maximum"]) is not None:
        most = math.floor(high)
    if (high := numbers["exclusiveMaximum"]) is not None:
        most = min(most, math.ceil(high) - 1)
    return least, most


def _real_bounds(numbers: dict[str, float | None]) -> tuple[float, float]:
    """As `_whole_bounds`; of bounds that are excluded a quarter of the range is kept away, at most a half."""
    lows = [low for low in (numbers["minimum"], numbers["exclusiveMinimum"]) if low is not None]
    highs = [high for high in (numbers["maximum"], numbers["exclusiveMaximum"]) if high is not None]
    least, most = max(lows, default=-math.inf), min(highs, default=math.inf)
    gap = min(0.5, (most - least) / 4)
    if numbers["exclusiveMinimum"] is not None:
        least += gap
    if numbers["exclusiveMaximum"] is not None:
        most -= gap
    return least, most
