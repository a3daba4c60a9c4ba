"""The gateway's other two doors, both without a key: a unix socket for those who may see all, a port for metrics.

The socket's file is its lock: only the gateway's own user can open it. Both answer GET and HEAD without a body,
within the limits of the endpoint's own connections.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web

from dp_vllm_gateway import replies, sockets
from dp_vllm_gateway.asked import Asked
from dp_vllm_gateway.clients import Handler, Server
from dp_vllm_gateway.crowd import Crowd
from dp_vllm_gateway.listeners import Listeners
from dp_vllm_gateway.own import OwnAnswers
from dp_vllm_gateway.relay import Relay

MOST_CONNECTIONS: Final = 32
"""At each door, so that neither takes the files that clients need."""

IDLE_SECONDS: Final = 75.0
SHUTDOWN_SECONDS: Final = 1.0

_Answer = Callable[[], web.Response | Awaitable[web.Response]]


@contextlib.asynccontextmanager
async def serving(listeners: Listeners, own: OwnAnswers) -> AsyncIterator[None]:
    """Serve both, as far as they are asked for."""
    metrics: dict[str, _Answer] = {"/health": own.health, "/ready": own.ready, "/metrics": own.metrics}
    async with contextlib.AsyncExitStack() as stack:
        if listeners.admin is not None:
            answers = {**metrics, "/state": own.state, "/decisions": own.decisions}
            await stack.enter_async_context(_serving(_handler(answers), listeners.admin))
        if listeners.metrics is not None:
            await stack.enter_async_context(_serving(_handler(metrics), listeners.metrics))
        yield


@contextlib.asynccontextmanager
async def _serving(handler: Handler, listener: socket.socket) -> AsyncIterator[None]:
    crowd = Crowd(MOST_CONNECTIONS, MOST_CONNECTIONS)
    server = Server(handler, idle_client_seconds=IDLE_SECONDS, crowd=crowd)
    listening = await asyncio.get_running_loop().create_server(server, sock=listener, backlog=sockets.BACKLOG)
    try:
        yield
    finally:
        listening.close()
        server.pre_shutdown()  # idle connections end at once
        await server.shutdown(SHUTDOWN_SECONDS)


def _handler(answers: Mapping[str, _Answer]) -> Handler:
    async def handle(asked: Asked, relay: Relay) -> None:
        path = asked.target.partition("?")[0]
        answer = answers.get(path)
        if answer is None:
            response = replies.error(404, f"{asked.method} {path}: Not Found")
        elif asked.method not in ("GET", "HEAD"):
            response = replies.error(405, f"{asked.method} {path}: Method Not Allowed", headers={"Allow": "GET, HEAD"})
        else:
            given = answer()
            response = given if isinstance(given, web.Response) else await given
        replies.send(response, relay)

    return handle
