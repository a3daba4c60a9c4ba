"""What is wrong with something, for a person: a reason in one word, and a sentence that says what can be done. Pure."""

import re
from dataclasses import dataclass
from typing import Final

LONGEST: Final = 1000
"""Characters of a message."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something does not do what it is for."""

    reason: str
    """The cluster's own word, if it has one: it becomes the reason of a condition."""
    message: str
    needs_person: bool
    """It does not pass by itself."""

    @classmethod
    def of(cls, reason: str, message: str, *, needs_person: bool) -> "Trouble":
        """Make the reason fit for a condition, and the message one line that is not too long."""
        return cls(_word(reason), one_line(message), needs_person)


def one_line(text: str, longest: int = LONGEST) -> str:
    """The text without line breaks, cut if it is too long."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def advised(text: str, advice: str) -> str:
    """The text, and what can be done."""
    return f"{text.rstrip('. ')}; {advice}" if advice else text


def _word(reason: str) -> str:
    letters = re.sub(r"[^A-Za-z0-9_]", "", reason).lstrip("0123456789_").rstrip("_")[:64]
    return letters or "Unknown"
