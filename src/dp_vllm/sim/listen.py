"""The listening socket: bound before the model loads, as vLLM does, so that a taken place is known at once."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable

from dp_vllm import hosts
from dp_vllm.errors import UserError
from dp_vllm.sim.options import Listen

_BACKLOG = 2048


def bind(place: Listen) -> socket.socket:
    """A bound socket that does not listen yet. Raises UserError if the place is taken; nothing is unlinked."""
    try:
        if place.uds:
            return _bound(socket.AF_UNIX, place.uds)
        family = socket.AF_INET6 if place.host and ":" in place.host else socket.AF_INET
        return _bound(family, (place.host or "", place.port))
    except OSError as error:
        raise UserError(f"{describe(place)}: {error.strerror or error}") from error


def _bound(family: socket.AddressFamily, address: str | tuple[str, int]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        _share(listener, True)
        listener.bind(address)
        _share(listener, False)
    except OSError:
        listener.close()
        raise
    return listener


def _share(listener: socket.socket, on: bool) -> None:
    """On: connections that an earlier server left in TIME_WAIT do not count. Off: nobody else may bind this port.

    Linux lets two sockets that both have it on bind one port as long as none listens, so it is off in between.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, on)


def describe(place: Listen) -> str:
    """Where it listens, for people."""
    return f"unix:{place.uds}" if place.uds else f"http://{hosts.in_url(place.host or '0.0.0.0')}:{place.port}"  # noqa: S104


class Door:
    """The listener of a running server. A fault may shut it for a while; at the end it is shut for good."""

    def __init__(self, place: Listen, listener: socket.socket) -> None:
        self._place = place
        self._listener: socket.socket | None = listener
        self._protocol: Callable[[], asyncio.Protocol] = asyncio.Protocol
        self._server: asyncio.Server | None = None

    async def serve(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Accept the first connection; each gets a protocol of its own."""
        self._protocol = protocol
        await self.open()

    async def open(self) -> None:
        """Accept connections, on a new socket if the first one was closed."""
        if self._server is not None:
            return
        if self._listener is None:
            if self._place.uds:
                os.unlink(self._place.uds)
            self._listener = bind(self._place)
        self._server = await _serve(self._listener, self._protocol)

    def close(self) -> None:
        """Refuse new connections; those that are open stay."""
        if self._server is not None:
            self._server.close()
        self._server = self._listener = None


async def _serve(listener: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> asyncio.Server:
    """Listen. Closing the server leaves a unix socket's file where it is, as vLLM does."""
    loop = asyncio.get_running_loop()
    _share(listener, True)
    if listener.family != socket.AF_UNIX:
        return await loop.create_server(protocol, sock=listener, backlog=_BACKLOG)
    keep = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
    return await loop.create_unix_server(protocol, sock=listener, backlog=_BACKLOG, **keep)  # type: ignore[arg-type]
