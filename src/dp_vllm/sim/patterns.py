"""A text that a simple regular expression matches; look-around and references are refused."""

from __future__ import annotations

import string
from typing import Final

from dp_vllm.sim.errors import bad_request

_MOST_CHARS: Final = 1000
_MOST_DEPTH: Final = 20
_CLASSES: Final = {"d": "0", "w": "a", "s": " ", "D": "a", "W": "-", "S": "a", "n": "\n", "t": "\t", "r": "\r"}
_MEMBERS: Final = {"d": "0123456789", "w": string.ascii_letters + string.digits + "_", "s": " \t\n\r\f\v"}
_REFUSED_ESCAPES: Final = frozenset("bBAZzkpPuxcN")


def matching(pattern: str, least: int = 0) -> str:
    """A short text that the whole pattern matches, of `least` characters if repetitions allow it. Raises Refusal."""
    short = _Reader(pattern, 0).whole()
    if len(short) >= least:
        return short
    more = _Reader(pattern, least - len(short)).whole()
    if len(more) < least:
        raise bad_request(f"The pattern {pattern!r} is not simulated together with a least length of {least}.")
    return more


class _Reader:
    """Reads a pattern from left to right; `spare` characters may be added by repetitions without an end."""

    def __init__(self, pattern: str, spare: int) -> None:
        self._pattern = pattern
        self._spare = min(spare, _MOST_CHARS)
        self._place = 0
        self._depth = 0

    def whole(self) -> str:
        text = self._alternatives()
        if self._place < len(self._pattern):
            raise self._refused()
        return text

    def _alternatives(self) -> str:
        """The first alternative; the others are read and dropped."""
        first = self._items()
        spare = self._spare
        while self._next("|"):
            self._items()
        self._spare = spare
        return first

    def _items(self) -> str:
        text = ""
        while self._place < len(self._pattern) and self._pattern[self._place] not in "|)":
            if self._pattern[self._place] in "^$":
                self._place += 1
                continue
            text += self._repeated(self._atom())
            if len(text) > _MOST_CHARS:
                raise bad_request(f"The pattern {self._pattern!r} needs a text that is too long to be simulated.")
        return text

    def _repeated(self, text: str) -> str:
        least, endless = self._quantifier()
        if len(text) * least > _MOST_CHARS:
            raise bad_request(f"The pattern {self._pattern!r} needs a text that is too long to be simulated.")
        count = least
        if endless and text and self._spare > 0:
            more = -(-self._spare // len(text))
            self._spare -= more * len(text)
            count += more
        return text * count

    def _quantifier(self) -> tuple[int, bool]:
        """The least count, and whether more are allowed without an end."""
        found = (1, False)
        if self._next("?"):
            found = (0, False)
        elif self._next("*"):
            found = (0, True)
        elif self._next("+"):
            found = (1, True)
        elif self._place < len(self._pattern) and self._pattern[self._place] == "{":
            found = self._counts()
        self._next("?")
        return found

    def _counts(self) -> tuple[int, bool]:
        inner, closed, _ = self._pattern[self._place + 1 :].partition("}")
        least, comma, most = inner.partition(",")
        if not closed or not (least.isdecimal() or (comma and not least)) or (most and not most.isdecimal()):
            raise self._refused()
        self._place += len(inner) + 2
        return min(int(least or 0), _MOST_CHARS + 1) if len(least) < 10 else _MOST_CHARS + 1, bool(comma) and not most

    def _atom(self) -> str:
        letter = self._take()
        if letter == "(":
            return self._group()
        if letter == "[":
            return self._class()
        if letter == "\\":
            return self._escape()
        if letter == ".":
            return "a"
        if letter in "*+?{":
            raise self._refused()
        return letter

    def _group(self) -> str:
        if self._next("?") and not self._next(":"):
            raise self._refused()
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise self._refused()
        text = self._alternatives()
        self._depth -= 1
        if not self._next(")"):
            raise self._refused()
        return text

    def _escape(self) -> str:
        letter = self._take()
        if letter in _REFUSED_ESCAPES or letter.isdecimal():
            raise self._refused()
        return _CLASSES.get(letter, letter)

    def _class(self) -> str:
        """A member of a class, or a common letter that is none of a negated class."""
        negated, first, members = self._next("^"), True, ""
        while first or not self._next("]"):
            letter, first = self._take(), False
            if letter == "\\":
                letter = self._take()
                if letter in _REFUSED_ESCAPES or letter.isdecimal() or (letter in "DWS" and negated):
                    raise self._refused()
                members += _MEMBERS.get(letter) or _CLASSES.get(letter, letter)
            else:
                members += self._range(letter)
        if not negated:
            return members[0]
        found = next((letter for letter in "a0 -_zZ9.#" if letter not in members), None)
        if found is None:
            raise self._refused()
        return found

    def _range(self, start: str) -> str:
        """All members from `start` if a range begins there, else itself."""
        rest = self._pattern[self._place : self._place + 2]
        if start == "[" and rest[:1] == ":":
            raise self._refused()
        if len(rest) < 2 or rest[0] != "-" or rest[1] == "]":
            return start
        self._place += 1
        end = self._take()
        if end == "\\" or end < start:
            raise self._refused()
        return "".join(map(chr, range(ord(start), min(ord(end), ord(start) + 256) + 1)))

    def _take(self) -> str:
        if self._place >= len(self._pattern):
            raise self._refused()
        self._place += 1
        return self._pattern[self._place - 1]

    def _next(self, letter: str) -> bool:
        found = self._pattern[self._place : self._place + 1] == letter
        self._place += found
        return found

    def _refused(self) -> Exception:
        return bad_request(f"The pattern {self._pattern!r} is not valid, or too intricate to be simulated.")
