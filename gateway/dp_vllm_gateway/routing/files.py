"""Finds the files (images, sounds, documents, embeddings) that are sent within a prompt's JSON text. Pure.

The rule: a file is a long run of base64 that either follows `;base64,`, or is a whole JSON
string that does not stand under a name that engines read as text (`TEXT_NAMES`). So a picture counts as one under any
name and in any spelling, and a long word, key or hexadecimal dump in a message counts as the text that it is.
A video's pictures, which vLLM takes with commas between them, count as one file.

Base64 may be of either alphabet, in lines, with its characters escaped as JSON or URLs allow. It is looked for only in
pieces of text without a blank and a quotation mark: they are found far sooner than the text is read.
"""

import re
from collections.abc import Iterator
from typing import Final

PIECE_BYTES: Final = 2048
"""Each run of twice this length is found, and some that are shorter. A still shorter one has as few tokens as text."""

LEAST_BYTES: Final = 256
"""After `;base64,` so much is a file."""

TEXT_NAMES: Final = (
    *(
        "content",
        "text",
        "prompt",
        "input",
        "output",
        "system",
        "instructions",
        "suffix",
        "query",
        "queries",
        "documents",
    ),
    *("arguments", "reasoning", "reasoning_content", "thinking", "refusal", "summary", "description", "name", "id"),
    *("signature", "encrypted_content"),
)
"""Names of strings, and of lists of strings, that engines read as text or not at all."""

_BASE64: Final = re.compile(
    rb"(?:[A-Za-z0-9+/=_-]++|\\(?:[/nrt]|u00[0-9A-Fa-f]{2})|%(?:2[BbDdFf]|3[Dd]|5[Ff]|0[AaDd]))++"
)
_SEVERAL: Final = re.compile(_BASE64.pattern.replace(b"=_-", b"=_,-"))
"""With commas between them."""
_MARK: Final = b";base64,"
_MARK_WITHIN: Final = 256
"""Bytes: what is before the mark names a type and its parameters."""

_NAMED: Final = re.compile(rb'"([A-Za-z0-9_.-]{1,64})"\s*+:\s*+(?:\[\s*+)?"$')
_NAME_WITHIN: Final = 96
_NEXT: Final = re.compile(rb'"\s*,\s*"')


def files_of(text: bytes) -> Iterator[tuple[int, int]]:
    """Where each file begins and ends, in order."""
    end, before = 0, (0, 0)
    while (found := _piece(text, end)) is not None:
        begin, end = found
        marked = text[begin : min(begin + _MARK_WITHIN, end)].lower().find(_MARK)
        if marked >= 0:
            begin += marked + len(_MARK)
        elif not (_is_string(text, begin, end) and _is_named_otherwise(text, begin, before)):
            continue
        run = (_BASE64 if marked < 0 else _SEVERAL).match(text, begin, end)
        if run is None or run.end() - begin < LEAST_BYTES or (marked < 0 and run.end() < end):
            continue
        before = begin, end
        yield begin, run.end()


def _piece(text: bytes, start: int) -> tuple[int, int] | None:
    """The next long piece of text that has no blank and no quotation mark."""
    while (stop := start + PIECE_BYTES) <= len(text):
        last = text.rfind(b" ", start, stop)
        if last < 0:
            last = text.rfind(b'"', start, stop)
            if last < 0:
                return start, _end(text, stop)
        start = last + 1
    return None


def _end(text: bytes, start: int) -> int:
    """Where the next blank or quotation mark is. In steps, or what lacks one of them would be read again and again."""
    for begin in range(start, len(text), PIECE_BYTES):
        stop = begin + PIECE_BYTES
        ends = [at for at in (text.find(b" ", begin, stop), text.find(b'"', begin, stop)) if at >= 0]
        if ends:
            return min(ends)
    return len(text)


def _is_string(text: bytes, begin: int, end: int) -> bool:
    """Whether a piece is a whole JSON string."""
    return text[begin - 1 : begin] == b'"' and text[end : end + 1] == b'"'


def _is_named_otherwise(text: bytes, begin: int, before: tuple[int, int]) -> bool:
    """Whether a string has a name, and another one than those of texts. The next in a list is as the one before."""
    found = _NAMED.search(text, max(0, begin - _NAME_WITHIN), begin)
    if found is not None:
        return found[1].decode() not in TEXT_NAMES
    return before[1] > 0 and _NEXT.fullmatch(text, before[1], begin) is not None
