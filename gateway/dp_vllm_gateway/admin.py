"""The gateway's other two doors, both without a key: a unix socket for those who may see all, a port for metrics.

The socket's file is its lock: nobody but the gateway's own user can open it.
"""

import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from dp_vllm_gateway import replies
from dp_vllm_gateway.listeners import Listeners
from dp_vllm_gateway.own import OwnAnswers

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def serving(listeners: Listeners, own: OwnAnswers) -> AsyncIterator[None]:
    """Serve both, as far as they are asked for."""
    async with contextlib.AsyncExitStack() as stack:
        if listeners.admin is not None:
            await stack.enter_async_context(_serving(_admin(own), listeners.admin))
        if listeners.metrics is not None:
            await stack.enter_async_context(_serving(_metrics(own), listeners.metrics))
        yield


@contextlib.asynccontextmanager
async def _serving(application: web.Application, listener: socket.socket) -> AsyncIterator[None]:
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield
    finally:
        await runner.cleanup()


# what is answered


def _metrics(own: OwnAnswers) -> web.Application:
    application = web.Application(middlewares=[_errors_as_json])
    application.router.add_get("/health", _answer(own.health))
    application.router.add_get("/ready", _answer(own.ready))
    application.router.add_get("/metrics", _awaited(own.metrics))
    return application


def _admin(own: OwnAnswers) -> web.Application:
    application = _metrics(own)
    application.router.add_get("/state", _answer(own.state))
    application.router.add_get("/decisions", _awaited(own.decisions))
    return application


def _answer(response: Callable[[], web.Response]) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return response()

    return handle


def _awaited(response: Callable[[], Awaitable[web.Response]]) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await response()

    return handle


@web.middleware
async def _errors_as_json(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return replies.error(error.status, f"{request.method} {request.path}: {error.reason}")
