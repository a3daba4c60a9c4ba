"""Reads the head of a plain request, which is what nearly every client sends. Pure: bytes in, what they say out;
what is remembered makes that quicker and nothing else.

What is not plain is left to aiohttp's parser: old versions, bodies in chunks, upgrades, `Expect`, heads that are long
or come in pieces, and all that is malformed. What is taken here that parser takes too, and understands alike (RFC
9112); a test holds one against the other.
"""

import re
from typing import Final

from dp_vllm_gateway.headers import known
from dp_vllm_gateway.heads import Incoming

HEAD_BYTES: Final = 16 << 10
"""A longer head is not plain."""

MOST_LINES: Final = 100
"""Nor is one of more lines."""

MOST_KEPT: Final = 1024
LONGEST_KEPT: Final = 512
"""So many lines of so many bytes are recognised."""

_FIRST: Final = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[!\"$-~]*) HTTP/1\.1")
_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE: Final = rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?"
_LINE: Final = re.compile(rb"(%b):[ \t]*(%b)[ \t]*" % (_TOKEN, _VALUE))
_LENGTH: Final = re.compile(rb"[0-9]{1,15}")

_ONCE: Final = frozenset({b"connection", b"content-length", b"content-type", b"host", b"user-agent"})
"""Twice they are malformed, or read together."""

_NEVER: Final = frozenset(
    {
        *(b"expect", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"sec-websocket-key1"),
        *(
            b"content-location",
            b"content-range",
            b"etag",
            b"max-forwards",
            b"server",
        ),  # likewise, and nobody sends them
    }
)

Head = tuple[str, str, Incoming, int, int]
"""Method, target, headers; where the body begins, and its length in bytes."""

_Known = tuple[bytes | None, bytes, bytes | None]
"""The header's name in lower case, if the gateway reads it; its value; the line, if an engine is sent it."""


class PlainHeads:
    """Owns the lines that were seen: clients send the same ones again and again, and each is judged once."""

    __slots__ = ("_firsts", "_lines")

    def __init__(self) -> None:
        self._firsts: dict[bytes, tuple[str, str]] = {}
        self._lines: dict[bytes, _Known] = {}

    def read(self, data: bytes) -> Head | None:
        """The request that begins with these bytes, if its head is all there and plain."""
        end = data.find(b"\r\n\r\n", 0, HEAD_BYTES)
        if end < 0:
            return None
        lines = data[:end].split(b"\r\n")
        first = self._firsts.get(lines[0]) or self._first(lines[0])
        if first is None or len(lines) > MOST_LINES:
            return None
        incoming = self._incoming(lines)
        if incoming is None or b"host" not in incoming.read:
            return None
        length = incoming.read.get(b"content-length")
        return *first, incoming, end + 4, 0 if length is None else int(length)

    def _incoming(self, lines: list[bytes]) -> Incoming | None:
        copied: list[bytes] = []
        read: dict[bytes, bytes] = {}
        seen = self._lines
        for line in lines[1:]:
            told = seen.get(line) or self._line(line)
            if told is None:
                return None
            name, value, copy = told
            if name is not None:
                if name not in read:
                    read[name] = value
                elif name in _ONCE:
                    return None
            if copy is not None:
                copied.append(copy)
        copied.append(b"")
        return Incoming(b"\r\n".join(copied), read)

    def _first(self, line: bytes) -> tuple[str, str] | None:
        found = _FIRST.fullmatch(line)
        if found is None:
            return None
        first = found[1].decode(), found[2].decode()
        if len(line) <= LONGEST_KEPT:
            if len(self._firsts) >= MOST_KEPT:
                self._firsts.clear()
            self._firsts[line] = first
        return first

    def _line(self, line: bytes) -> _Known | None:
        found = _LINE.fullmatch(line)
        if found is None:
            return None
        lower, value = found[1].lower(), found[2]
        if lower in _NEVER or (lower == b"connection" and value.lower() != b"keep-alive"):
            return None
        if lower == b"content-length" and not _LENGTH.fullmatch(value):
            return None
        name, begin = known(found[1])
        told = name, value, begin + value if begin is not None else None
        if len(line) <= LONGEST_KEPT:
            if len(self._lines) >= MOST_KEPT:
                self._lines.clear()
            self._lines[line] = told
        return told
