"""Bytes to a client, written to its connection without a task switch, as they come from an engine.

aiohttp keeps connections alive and bounds what clients may send; the answer is ours. Of aiohttp's connection this file
uses what is not published (its version is pinned, and a test asserts each): `transport`, `_paused`, `_drain_helper()`.
"""

from typing import Any, Final

from aiohttp.web_protocol import RequestHandler

from dp_vllm_gateway.asked import Asked
from dp_vllm_gateway.outbox import Outbox

REASONS: Final = {
    200: b"OK",
    201: b"Created",
    204: b"No Content",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    417: b"Expectation Failed",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}


BODILESS: Final = frozenset({204, 304})
"""Statuses of responses that are a head alone. A length in it would be that of another response."""


class Relay:
    """One response to one client: a head, pieces of body, an end."""

    __slots__ = ("_chunked", "_client", "_http10", "_outbox", "begun", "bodiless", "ended", "keep_alive")

    def __init__(self, client: RequestHandler, asked: Asked, outbox: Outbox) -> None:
        self._client: Any = client
        self._outbox = outbox
        self._http10 = asked.http10
        self._chunked = False
        self.keep_alive = asked.keep_alive
        """The connection stays open after this response, and its head says so."""
        self.bodiless = asked.method == "HEAD"
        """The response has a head alone, whatever that says of a body."""
        self.begun = False
        self.ended = False

    def proceed(self) -> None:
        """Tell a client that waits for it to send the body (`Expect: 100-continue`). HTTP/1.0 knows no such answer."""
        if not self._http10:
            self._outbox.send(self._client, b"HTTP/1.1 100 Continue\r\n\r\n")

    def whole(self, status: int, lines: bytes, body: bytes) -> None:
        """Send a complete response. `lines` are header lines with their ends, without any that frame the body."""
        if status in BODILESS:
            self.head(status, lines)
        else:
            self._write_head(status, lines, b"content-length: %d\r\n" % len(body), b"" if self.bodiless else body)
        self.ended = True

    def head(self, status: int, lines: bytes, length: int | None = None) -> None:
        """Begin a response whose body follows in pieces: `length` bytes in all, or nobody knows."""
        if status in BODILESS:
            self.bodiless, length = True, None
        if length is not None:
            framing = b"content-length: %d\r\n" % length
        elif self.bodiless:
            framing = b""
        elif self._http10:
            framing, self.keep_alive = b"", False
        else:
            framing = b"transfer-encoding: chunked\r\n"
            self._chunked = True
        self._write_head(status, lines, framing, b"")

    def _write_head(self, status: int, lines: bytes, framing: bytes, body: bytes) -> None:
        connection = b"" if self.keep_alive and not self._http10 else self._connection_header()
        reason = REASONS.get(status, b"")
        head = b"HTTP/1.1 %d %b\r\n%b%b%b\r\n%b" % (status, reason, lines, framing, connection, body)
        self._outbox.send(self._client, head)
        self.begun = True

    def _connection_header(self) -> bytes:
        return b"connection: keep-alive\r\n" if self.keep_alive else b"connection: close\r\n"

    def body(self, data: bytes) -> None:
        """Send a piece of the body. Empty data is nothing: framed, it would end the body."""
        if data and not self.bodiless:
            self._outbox.send(self._client, b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def framed(self, data: bytes) -> bool:
        """Send a piece of the body that is one chunk already; False if this body does not go in chunks."""
        if not self._chunked or self.bodiless:
            return False
        self._outbox.send(self._client, data)
        return True

    def end(self, data: bytes = b"") -> None:
        """Send the last piece and end the body."""
        if self.bodiless or not self._chunked:
            self.body(data)
        elif data:
            self._outbox.send(self._client, b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
        else:
            self._outbox.send(self._client, b"0\r\n\r\n")
        self.ended = True

    def cut(self) -> None:
        """End the connection in the middle, so that the client cannot take what it has for all."""
        self.keep_alive = False
        self.ended = True
        self._outbox.flush()
        transport = self._client.transport
        if transport is not None:
            transport.abort()

    @property
    def paused(self) -> bool:
        """The client does not take what was sent; send no more before `drained`."""
        return bool(self._client._paused)

    async def drained(self) -> None:
        """Wait until the client took what was sent. Raises ConnectionError if it left."""
        await self._client._drain_helper()
