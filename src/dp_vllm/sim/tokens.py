"""Text to token ids and back, without a vocabulary: a token is a piece of at most four bytes, and its id spells them.

A piece may start with a space or a line break and holds none further on, so that pieces fall in step again at every
word: texts that share a prefix share its tokens, as with a real tokenizer. English comes to about three bytes a token.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

LONGEST: Final = 4
"""Bytes in the longest piece."""

_PIECE: Final = re.compile(rb"[\x00-\xff][^ \n]{0,3}")
_FIRST_ID: Final = (0, 0, 256, 256 + 256**2, 256 + 256**2 + 256**3)
"""The lowest id of the pieces that are so many bytes long."""

VOCABULARY_SIZE: Final = _FIRST_ID[LONGEST] + (0xF5 << 24)
"""Ids are below it: UTF-8 has no byte above 0xF4. It fits into 32 bits."""


def pieces(text: bytes) -> list[bytes]:
    """Cut UTF-8 text into tokens."""
    return _PIECE.findall(text)


def encode(text: str) -> array[int]:
    """Ids of the text's tokens, 32 bits each; lone surrogates become question marks."""
    return array("I", map(id_of, pieces(text.encode("utf-8", "replace"))))


@lru_cache(maxsize=65536)  # twice as fast for the words that come again and again
def id_of(piece: bytes) -> int:
    """The id that spells a piece."""
    return _FIRST_ID[len(piece)] + int.from_bytes(piece)


def piece_of(token: int) -> bytes:
    """The bytes that an id spells. Raises ValueError for a number that is no id."""
    if not 0 <= token < VOCABULARY_SIZE:
        raise ValueError(f"token id {token} is not below the size of the vocabulary, {VOCABULARY_SIZE}")
    size = next(size for size in range(LONGEST, 0, -1) if token >= _FIRST_ID[size])
    return (token - _FIRST_ID[size]).to_bytes(size)


def decode(ids: Iterable[int]) -> str:
    """The text of these ids. Raises ValueError for a number that is no id."""
    return b"".join(map(piece_of, ids)).decode("utf-8", "replace")
