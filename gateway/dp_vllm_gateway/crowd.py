"""Tells clients beyond the most that can be served to come again: without open files left, nobody could be served."""

import asyncio
import resource
from collections.abc import Callable
from typing import Final, cast

from dp_vllm_gateway import replies
from dp_vllm_gateway.clients import Server

SPARE_FILES: Final = 128
"""Open files that are not clients' or for them: logs, probes, listening and admin sockets."""

LINGER_SECONDS: Final = 5.0
"""How long a client too many may take to ask: an answer before its request could be lost with the connection."""

_BODY: Final = replies.error_body(
    503, "the gateway has as many connections as it can have", code="too_many_connections"
)
_ANSWER: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


def most_clients() -> int:
    """How many connections this process can serve at a time; each may need one to an engine too."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (most - SPARE_FILES) // 2)


def bounded(server: Server, most: int) -> Callable[[], asyncio.Protocol]:
    """What serves a new connection: `server`, or, if it has `most` already, nobody."""
    return lambda: server() if len(server.connections) < most else _TooMany()


class _TooMany(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._end = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        self._transport.write(_ANSWER)
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._end.cancel()
