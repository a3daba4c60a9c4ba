"""Asks one engine something on the gateway's own account: a probe, a merged answer, one of many broadcasts."""

import asyncio
from typing import Final, NamedTuple

from dp_vllm_gateway.member import Member
from dp_vllm_gateway.upstream import Garbage, Headers, UpstreamError

MOST_BYTES: Final = 64 << 20
"""The longest answer that is taken: a thousand times the metrics of an engine."""


class Fetched(NamedTuple):
    """A whole answer: an engine's, or one that was put together from several."""

    status: int
    body: bytes


class _Exchange:
    def __init__(self) -> None:
        self._status = 0
        self._body: list[bytes] = []
        self._size = 0
        self.done: asyncio.Future[Fetched] = asyncio.get_running_loop().create_future()

    def on_head(self, status: int, headers: Headers) -> None:
        self._status = status

    def on_body(self, data: bytes, complete: bool) -> None:
        self._body.append(data)
        self._size += len(data)
        if self._size > MOST_BYTES:
            self.on_lost(Garbage(f"the answer is longer than {MOST_BYTES} bytes"))
        elif complete and not self.done.done():
            self.done.set_result(Fetched(self._status, b"".join(self._body)))

    def on_chunk(self, data: bytes) -> bool:
        return False

    def on_eof(self) -> None:
        self.on_body(b"", True)

    def on_lost(self, error: UpstreamError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


async def fetch(
    member: Member, method: str, target: str, lines: bytes = b"", body: bytes = b"", *, seconds: float
) -> Fetched:
    """Send one request and read the answer whole, on a new connection.

    Raises OSError if nobody listens, TimeoutError (an OSError too) after `seconds`, UpstreamError if the answer is cut
    or no HTTP.
    """
    async with asyncio.timeout(seconds):
        connection = await member.connections.connect()
        exchange = _Exchange()
        head = b"%b %b HTTP/1.1\r\nhost: %b\r\nconnection: close\r\n%bcontent-length: %d\r\n\r\n"
        path = target.encode("utf-8", "surrogateescape")
        request = head % (method.encode(), path, member.host, lines, len(body))
        try:
            connection.send(request + body, exchange, head_only=method == "HEAD")
            return await exchange.done
        finally:
            connection.close()
