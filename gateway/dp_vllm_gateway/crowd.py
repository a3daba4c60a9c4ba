"""Bounds the connections of all clients and of each address: without open files left, no client could be served."""

import asyncio
import ipaddress
import logging
import resource
from collections.abc import Callable
from typing import Final, cast

from dp_vllm_gateway import replies

SPARE_FILES: Final = 128
"""Open files that are not clients' or for them: logs, probes, listening and admin sockets."""

LINGER_SECONDS: Final = 5.0
"""How long a client too many may take to ask: an answer before its request could be lost with the connection."""

MOST_REFUSED: Final = SPARE_FILES // 4
"""Clients too many that are answered at a time; more are not, because each holds an open file."""

LOG_SECONDS: Final = 60.0
"""Between two log lines about addresses with too many connections."""

log = logging.getLogger(__name__)


def most_clients() -> int:
    """How many connections this process can serve at a time; each may need one to an engine too."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (most - SPARE_FILES) // 2)


def address_of(transport: asyncio.BaseTransport) -> str | None:
    """The client's address, of IPv6 the network of 64 bits, which one host may have whole; None on a unix socket."""
    peer = transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return None
    address = ipaddress.ip_address(peer[0].partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{ipaddress.IPv6Address(address.packed[:8] + bytes(8))}/64"


class Crowd:
    """Owns how many connections there are, and how many from each address."""

    def __init__(self, most: int, most_per_address: int | None = None) -> None:
        """By default one address may have three quarters of all."""
        self._most = most
        self._most_per_address = max(1, most * 3 // 4) if most_per_address is None else most_per_address
        self._number = 0
        self._refused = 0
        self._by_address: dict[str, int] = {}
        self._logged_at = float("-inf")

    def enter(self, address: str | None) -> asyncio.Protocol | None:
        """Count a connection; if there are too many, what serves it instead."""
        if self._number >= self._most:
            message = "the gateway has as many connections as it can have"
            return self._refusing(503, "Service Unavailable", message)
        if address is not None:
            number = self._by_address.get(address, 0)
            if number >= self._most_per_address:
                self._log(address)
                message = f"{address} has {number} connections, as many as one address can have"
                return self._refusing(429, "Too Many Requests", message)
            self._by_address[address] = number + 1
        self._number += 1
        return None

    def _refusing(self, status: int, reason: str, message: str) -> asyncio.Protocol:
        if self._refused >= MOST_REFUSED:
            return _Closed()
        self._refused += 1
        return _TooMany(status, reason, message, on_end=self._refused_left)

    def _refused_left(self) -> None:
        self._refused -= 1

    def leave(self, address: str | None) -> None:
        """One that was counted has ended."""
        self._number -= 1
        if address is not None:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def _log(self, address: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            log.warning(
                "%s has %d connections; more get 429. If it is a proxy, raise --max-address-connections",
                *(address, self._most_per_address),
            )


class _Closed(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()  # uvloop's is none by its class


class _TooMany(asyncio.Protocol):
    def __init__(self, status: int, reason: str, message: str, *, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        body = replies.error_body(status, message, code="too_many_connections")
        head = (
            f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\nretry-after: 5\r\n"
            f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._answer = head.encode() + body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._end = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._answer)
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._end.cancel()
        self._on_end()
