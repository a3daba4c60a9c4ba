"""Bytes of one streamed answer to one client. A write costs little more than the system call.

aiohttp sends the head and the end; the chunks in between go straight to the transport, framed here. A client that does
not read is not written to: `blocked` says so, and what it missed is sent as one event once it reads again, as vLLM's
server does, so a slow client costs no memory.
"""

from __future__ import annotations

import asyncio

from aiohttp import HttpVersion11, web


class Wire:
    """A server-sent event stream."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self._protocol = request.protocol
        self._framed = request.version >= HttpVersion11
        self._response = web.StreamResponse()
        self._keep_alive_seconds = 0.0
        self._quiet = True

    async def open(self, keep_alive_seconds: float = 0.0) -> None:
        """Send the head; then a comment whenever nothing was sent for so long, unless that is 0."""
        self._response.headers.update(self._request.get("headers", {}))
        self._response.content_type = "text/event-stream"
        self._response.charset = "utf-8"
        if self._framed:
            self._response.enable_chunked_encoding()
        await self._response.prepare(self._request)
        if keep_alive_seconds > 0:
            self._keep_alive_seconds = keep_alive_seconds
            asyncio.get_running_loop().call_later(keep_alive_seconds, self._comment)

    @property
    def blocked(self) -> bool:
        """Whether the client has left more unread than the system buffers."""
        return self._protocol.writing_paused

    def send(self, data: bytes) -> None:
        """Write whole events at once. Nothing happens if the client has left."""
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            return
        self._quiet = False
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._framed else data)

    async def readable(self) -> None:
        """Wait until the client reads again. Raises ConnectionError if it has left."""
        await self._response._payload_writer.drain()  # type: ignore[union-attr]

    async def close(self) -> web.StreamResponse:
        """The answer is complete."""
        self._keep_alive_seconds = 0.0
        await self._response.write_eof()
        return self._response

    def _comment(self) -> None:
        if not self._keep_alive_seconds or self._protocol.transport is None:
            return
        if self._quiet:
            self.send(b": keep-alive\n\n")
        self._quiet = True
        asyncio.get_running_loop().call_later(self._keep_alive_seconds, self._comment)
