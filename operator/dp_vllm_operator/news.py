"""What of a new status is worth an Event: what went wrong, what is wrong no more. Pure.

Only a change is news, so a model that stays as it is makes no Events, however often it is looked at.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

_FLEETING: Final = ("Paused", "Disabled", "ScaledToZero")
"""Reasons that a user has made: they are told of, but warn of nothing."""


@dataclass(frozen=True, slots=True)
class News:
    """Something for people to know."""

    reason: str
    """As of the condition that it is in."""
    message: str
    warns: bool


def news(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[News]:
    """What has changed from one status to the next, for people."""
    before, after = _conditions(old), _conditions(new)
    for kind in ("Degraded", "Ready", "Available"):
        last, now = before.get(kind, {}), after.get(kind, {})
        turned = last.get("status") != now.get("status")
        if not turned and last.get("reason") == now.get("reason"):
            continue
        yield from _of(kind, now, turned=turned, is_first=not last)


def _of(kind: str, now: Mapping[str, Any], *, turned: bool, is_first: bool) -> Iterator[News]:
    reason, message, is_true = now.get("reason", ""), now.get("message", ""), now.get("status") == "True"
    if kind == "Degraded" and is_true:
        yield News(reason, message, warns=True)
    elif kind == "Ready" and ((is_true and turned) or reason in _FLEETING):
        yield News(reason, message, warns=False)
    elif kind == "Available" and not is_true and turned and not is_first and reason not in _FLEETING:
        yield News(reason, message, warns=True)


def _conditions(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {one.get("type", ""): one for one in status.get("conditions") or ()}
