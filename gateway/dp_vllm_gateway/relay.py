"""Bytes to a client, written straight to its connection.

aiohttp parses requests, keeps connections alive and bounds what clients may send; the answer is ours: head and body
are written synchronously as they come from an engine, without a task switch. This file and clients.py alone touch what
aiohttp does not publish (its version is pinned, and a test asserts each of these):

- `request._payload_writer` (StreamWriter): `output_size`, `chunked` and `_eof` are kept true, so that aiohttp never
  adds a second response to one that we began;
- `request._message`: the request's head, without the cost of aiohttp's cached properties;
- `request._protocol` (RequestHandler): `transport`, `_paused` and `_drain_helper()`.
"""

from typing import Any, Final, cast

from aiohttp import web

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
    429: b"Too Many Requests",
    500: b"Internal Server Error",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}


class Sent:
    """What a handler gives back to aiohttp when the response has already been written."""

    def __init__(self, keep_alive: bool) -> None:
        self.keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing is left to prepare."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


def _head(request: Any) -> Any:
    """What the request's parser made. It is not of the type that aiohttp says, on which compiled code would insist."""
    return request._message


_KEPT: Final = cast(web.StreamResponse, Sent(True))
_CLOSED: Final = cast(web.StreamResponse, Sent(False))


class Relay:
    """One response to one client: a head, pieces of body, an end."""

    __slots__ = ("_keep_alive", "_protocol", "_writer", "begun", "bodiless", "ended", "http10", "message")

    def __init__(self, request: web.BaseRequest) -> None:
        self._writer: Any = request._payload_writer
        self._protocol: Any = request._protocol
        self.message = message = _head(request)
        """The request's head."""
        self.http10 = message.version < (1, 1)
        self._keep_alive = not message.should_close
        self.bodiless = message.method == "HEAD"
        """The response has a head alone, whatever that says of a body."""
        self.begun = False
        self.ended = False

    def last(self) -> None:
        """Close the connection after this response, and say so in its head."""
        self._keep_alive = False

    def proceed(self) -> None:
        """Tell a client that waits for it to send the body (`Expect: 100-continue`)."""
        transport = self._protocol.transport
        if transport is not None:
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def whole(self, status: int, lines: bytes, body: bytes) -> None:
        """Send a complete response. `lines` are header lines with their ends, without any that frame the body."""
        self._write_head(status, lines, b"content-length: %d\r\n" % len(body), b"" if self.bodiless else body)
        self.ended = self._writer._eof = True

    def head(self, status: int, lines: bytes, length: int | None = None) -> None:
        """Begin a response whose body follows in pieces: `length` bytes in all, or nobody knows."""
        self.bodiless = self.bodiless or status in (204, 304)
        if length is not None:
            framing = b"content-length: %d\r\n" % length
        elif self.bodiless:
            framing = b""
        elif self.http10:
            framing, self._keep_alive = b"", False
        else:
            framing = b"transfer-encoding: chunked\r\n"
            self._writer.chunked = True
        self._write_head(status, lines, framing, b"")

    def _write_head(self, status: int, lines: bytes, framing: bytes, body: bytes) -> None:
        connection = b"" if self._keep_alive and not self.http10 else self._connection_header()
        reason = REASONS.get(status, b"")
        self._send(b"HTTP/1.1 %d %b\r\n%b%b%b\r\n%b" % (status, reason, lines, framing, connection, body))
        self.begun = True

    def _connection_header(self) -> bytes:
        return b"connection: keep-alive\r\n" if self._keep_alive else b"connection: close\r\n"

    def body(self, data: bytes) -> None:
        """Send a piece of the body. Empty data is nothing: framed, it would end the body."""
        transport = self._protocol.transport
        if not data or self.bodiless or transport is None:
            return
        writer = self._writer
        if writer.chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        writer.output_size += len(data)
        transport.write(data)

    def framed(self, data: bytes) -> bool:
        """Send a piece of the body that is one chunk already; False if this body does not go in chunks."""
        transport = self._protocol.transport
        writer = self._writer
        if not writer.chunked or self.bodiless or transport is None:
            return False
        writer.output_size += len(data)
        transport.write(data)
        return True

    def end(self, data: bytes = b"") -> None:
        """Send the last piece and end the body."""
        if self.bodiless or not self._writer.chunked:
            self.body(data)
        elif data:
            self._send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
        else:
            self._send(b"0\r\n\r\n")
        self.ended = self._writer._eof = True

    def cut(self) -> None:
        """End the connection in the middle, so that the client cannot take what it has for all."""
        self._keep_alive = False
        self.ended = self._writer._eof = True
        transport = self._protocol.transport
        if transport is not None:
            transport.abort()

    def _send(self, data: bytes) -> None:
        transport = self._protocol.transport
        if transport is not None:  # else the client is gone, and the handler's cancellation is on its way
            self._writer.output_size += len(data)
            transport.write(data)

    @property
    def paused(self) -> bool:
        """The client does not take what was sent; send no more before `drained`."""
        return bool(self._protocol._paused)

    async def drained(self) -> None:
        """Wait until the client took what was sent. Raises ConnectionError if it left."""
        await self._protocol._drain_helper()

    def response(self) -> web.StreamResponse:
        """What the handler returns to aiohttp."""
        return _KEPT if self._keep_alive else _CLOSED
