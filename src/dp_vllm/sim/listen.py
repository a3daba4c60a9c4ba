"""The listening socket: bound before the model loads, as vLLM does, so that a taken place is known at once."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

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
        raise UserError(f"{describe(place)}: {os.strerror(error.errno) if error.errno else error}") from error


def _bound(family: socket.AddressFamily, address: str | tuple[str, int]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def describe(place: Listen) -> str:
    """Where it listens, for people."""
    return f"unix:{place.uds}" if place.uds else f"http://{place.host or '0.0.0.0'}:{place.port}"  # noqa: S104


async def serve(listener: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> asyncio.Server:
    """Accept connections on the bound socket. Closing the server leaves a unix socket's file where it is."""
    loop = asyncio.get_running_loop()
    if listener.family != socket.AF_UNIX:
        return await loop.create_server(protocol, sock=listener, backlog=_BACKLOG)
    keep = {"cleanup_socket": False} if hasattr(asyncio, "EventLoop") else {}  # from Python 3.13 on
    return await loop.create_unix_server(protocol, sock=listener, backlog=_BACKLOG, **keep)  # type: ignore[arg-type]
