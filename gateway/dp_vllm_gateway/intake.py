"""What aiohttp's parser is given at once, and how long a head may become. Pure.

The parser bounds a head's lines alone. Of one piece it drops what follows an offer of another protocol
(`Upgrade: h2c`), and whole requests that something wrong follows, such as another request behind `Connection: close`.
So a piece ends where a head or a body ends, and bytes that have made no request and no part of a body are counted.
"""

import re
import sys
from typing import Any, Final

from aiohttp import StreamReader
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong

from dp_vllm_gateway import bounds

MAX_LINES: Final = 256
"""Of a head."""

_TOO_MANY: Final = "Too many headers"
_REASON: Final = re.compile(r"(?:[A-Za-z0-9 ,.-]|'(?:Host|Content-Length|Content-Type|Transfer-Encoding)')*")
"""How the parser's message begins; it goes on with what was sent, which may hold a key."""

_END: Final = b"\r\n\r\n"


class Intake:
    """Owns what is known of the bytes that one connection has sent to the parser."""

    __slots__ = ("_ends_head", "_head_bytes", "_last", "_left", "_payload", "_received", "loses_more", "unread")

    def __init__(self, head_bytes: int) -> None:
        self._head_bytes = head_bytes
        self._payload: StreamReader | None = None
        """The body of the newest request."""
        self._received = 0
        """How much of it there is."""
        self._left = 0
        """How much of it is still to come, as far as its length is known."""
        self._ends_head = False
        """The piece is known to end where a head does."""
        self._last = b""
        """The last bytes of a head that goes on."""
        self.unread = 0
        """Bytes since the last request or part of a body."""
        self.loses_more = False
        """A request offered another protocol, and what followed it may be lost."""

    def end(self, data: bytes, start: int) -> int:
        """Where the piece ends that begins there and that the parser may be given at once."""
        self._ends_head = False
        if self._left:
            return min(start + self._left, len(data))
        if self._in_body():
            return len(data)
        last = self._last if self.unread else b""
        if last and (at := (last + data[start : start + 3]).find(_END)) >= 0:
            at += start - len(last)
        elif (at := data.find(_END, start)) < 0:
            return len(data)
        self._ends_head = True
        return at + len(_END)

    def _in_body(self) -> bool:
        return self._payload is not None and not self._payload.is_eof()

    def fed(self, piece: bytes, newest: tuple[Any, StreamReader] | None) -> bool:
        """The parser was given a piece, and `newest` came of it. False if a head is too long."""
        self._left = max(0, self._left - len(piece))
        if newest is not None:
            message, self._payload = newest
            self.unread = 0
            if isinstance(message, RawRequestMessage) and not message.chunked:
                length = bounds.count_of(message.headers.get("Content-Length", "0").encode(), sys.maxsize)
                self._left = length - self._payload.total_bytes
            if isinstance(message, RawRequestMessage) and message.upgrade:
                self.loses_more = self.loses_more or message.chunked or not self._ends_head
        elif self._payload is not None and self._payload.total_bytes != self._received:
            self.unread = 0
        else:
            self.unread += len(piece)
        self._received = self._payload.total_bytes if self._payload is not None else 0
        self._last = (self._last + piece)[-3:] if self.unread else b""
        return self.unread <= self._head_bytes

    def fits(self, message: RawRequestMessage) -> bool:
        """Whether a request's head is no longer than it may be."""
        size = len(message.method) + len(message.path) + len(" HTTP/1.1\r\n\r\n")
        size += sum(len(name) + len(value) + len(": \r\n") for name, value in message.raw_headers)
        return size <= self._head_bytes

    def refusal(self, status: int, error: BaseException | None, message: str) -> tuple[int, str]:
        """The status and the message for what is no request, without anything of what was sent."""
        if status == 431 or isinstance(error, LineTooLong) or message.startswith(_TOO_MANY):
            return 431, f"the request's head is longer than {self._head_bytes} bytes or {MAX_LINES} lines"
        if status != 400:
            return status, message
        found = _REASON.match(message)
        reason = found[0].strip() if found is not None else ""
        return 400, f"the request is not HTTP/1.1: {reason}" if reason else "the request is not HTTP/1.1"
