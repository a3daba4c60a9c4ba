"""What one look found."""

import enum
from dataclasses import dataclass


class Level(enum.StrEnum):
    """How good it is."""

    OK = "ok"
    UNKNOWN = "unknown"
    """It could not be looked at."""
    WARNING = "warning"
    """It will start, and may not be what was meant."""
    PROBLEM = "problem"
    """It will not start, or not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    level: Level
    subject: str
    found: str
    advice: str = ""
    """What to do."""


def ok(subject: str, found: str) -> Finding:
    return Finding(Level.OK, subject, found)


def unknown(subject: str, found: str, advice: str = "") -> Finding:
    return Finding(Level.UNKNOWN, subject, found, advice)


def warning(subject: str, found: str, advice: str) -> Finding:
    return Finding(Level.WARNING, subject, found, advice)


def problem(subject: str, found: str, advice: str = "") -> Finding:
    return Finding(Level.PROBLEM, subject, found, advice)


def size(count: float) -> str:
    """Bytes for people."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 2**10:.0f} KiB"
