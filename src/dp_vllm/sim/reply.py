"""What the simulated engine says: a sentence that no model was run, then filler; the same for the same prompt and seed.

A reply is a rule rather than a text, so that a thousand long ones cost nothing until they are read.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import xxhash

from dp_vllm.sim import constraint, tokens
from dp_vllm.sim.constraint import Call

_WORDS: Final = """
    a all an and any are as at be big but by can cow cup day did do dog dry ear eat egg end fan far few fig fly for fox
    fun get go has hat he hen her his hot how if in ink is it its jam joy key lab law let lip low man map may men mix
    nor not now oak of
"""
_FILLER: Final = tuple(f" {word}".encode() for word in _WORDS.split())
"""64 words of one token each: a space and at most three letters. They stand in JSON as they are."""

_STRIDE: Final = 0x9E3779B97F4A7C15
"""Fibonacci hashing's multiplier: neighbours fall on far places."""
_WORD: Final = (1 << 64) - 1
_SHIFT: Final = 58


@lru_cache(maxsize=64)
def _opening(model: str) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    shown = model.encode("ascii", "replace").decode()
    plain = tokens.pieces(f"This is a simulated answer from {shown}; no model was run. Filler follows:".encode())
    return tuple(plain), tuple(_escaped(piece.decode()) for piece in plain)


@dataclass(frozen=True, slots=True)
class Fixed:
    """An answer that a request's constraint determines: its text, or the call of a tool with these arguments."""

    text: str
    call: Call | None = None


def fixed_text(response_format: Any, structured: dict[str, Any] | None, seed: int) -> Fixed | None:
    """The answer that `response_format` or `structured_outputs` demands, if one does. Raises Refusal."""
    text = constraint.text_of_format(response_format, structured, seed)
    return None if text is None else Fixed(text)


def _pieces(text: str) -> list[bytes]:
    """The text as tokens that end between two characters."""
    found, last = [], b""
    for character in text:
        letters = character.encode("utf-8", "replace")
        if last and (len(last) + len(letters) > tokens.LONGEST or letters in (b" ", b"\n")):
            found.append(last)
            last = b""
        last += letters
    return [*found, last] if last else found


def _escaped(text: str) -> bytes:
    return json.dumps(text)[1:-1].encode()


def seed_of(prompt: array[int], seed: int, index: int) -> int:
    """What a reply's filler depends on: the prompt, the request's seed, and which of its choices it is."""
    return xxhash.xxh3_64_intdigest(prompt.tobytes(), (seed + index * _STRIDE) & _WORD)


class Reply:
    """The tokens that one sequence will be given, and why they end."""

    __slots__ = ("_cut", "_escaped", "_last", "_opening", "_seed", "call", "finish", "length", "stop")

    def __init__(self, model: str, seed: int, length: int, finish: str, fixed: Fixed | None = None) -> None:
        self.call = None if fixed is None else fixed.call
        """The tool that is called; the text is then its arguments."""
        if fixed is None:
            self._opening, self._escaped = _opening(model)
        else:
            self._opening = tuple(_pieces(fixed.text))
            self._escaped = tuple(_escaped(piece.decode()) for piece in self._opening)
            length, finish = (length, finish) if length < len(self._opening) else (len(self._opening), "stop")
        self._seed = seed
        self.length = length
        """How many tokens are generated."""
        self.finish = finish
        """`stop`, or `length` if the limit cuts it."""
        self.stop: str | int | None = None
        """The stop string or token id that ended it."""
        self._cut = length
        self._last = b""

    def tokens(self, start: int, end: int) -> array[int]:
        """Ids of the tokens from `start` to before `end`."""
        return array("I", [tokens.id_of(self._raw(index)) for index in range(start, end)])

    def text(self, start: int, end: int) -> str:
        """What the tokens from `start` to before `end` add to the text."""
        shown = b"".join(map(self._raw, range(start, min(end, self._cut))))
        return (shown + self._last if start <= self._cut < end else shown).decode("utf-8", "replace")

    def escaped(self, start: int, end: int) -> bytes:
        """The same, as it stands inside a JSON string. One token of filler costs least."""
        if end - start == 1 and start < self._cut:
            if start >= len(self._escaped):
                return _FILLER[(((self._seed + start) * _STRIDE) & _WORD) >> _SHIFT]
            return self._escaped[start]
        return _escaped(self.text(start, end))

    def stop_at(self, stops: Sequence[str], ids: Sequence[int], *, include: bool, at_least: int) -> None:
        """End the reply at the first of these strings or token ids that it comes to after `at_least` tokens."""
        text = ""
        for index in range(self.length):
            before = len(text)
            text += self._raw(index).decode("utf-8", "replace")
            if index < at_least:
                continue
            token = tokens.id_of(self._raw(index))
            if token in ids:
                self._end(index, len(text) if include else before, token)
                return
            places = [
                (place, stop) for stop in stops if (place := text.find(stop, max(0, before - len(stop) + 1))) >= 0
            ]
            if places:
                place, stop = min(places)
                self._end(index, place + len(stop) if include else place, stop)
                return

    def end_after(self, count: int, finish: str) -> None:
        """End after so many tokens, at least one, for this reason."""
        self.length = min(self.length, max(count, 1))
        self.finish, self.stop = finish, None

    def _end(self, index: int, visible: int, stop: str | int) -> None:
        """Generate up to the token at `index`, but show only so many characters."""
        self.length, self.finish, self.stop, self._cut = index + 1, "stop", stop, 0
        while visible >= len(self._raw(self._cut)) and self._cut <= index:
            visible -= len(self._raw(self._cut))
            self._cut += 1
        self._last = self._raw(self._cut)[:visible]

    def _raw(self, index: int) -> bytes:
        if index < len(self._opening):
            return self._opening[index]
        return _FILLER[(((self._seed + index) * _STRIDE) & _WORD) >> _SHIFT]
