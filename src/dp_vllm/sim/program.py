"""One simulated engine from its load to its exit: who is wired to whom, and which tasks run."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from http import HTTPStatus

from aiohttp import web

from dp_vllm.sim import listen, loading
from dp_vllm.sim.app import App
from dp_vllm.sim.control import Control
from dp_vllm.sim.engine import Engine
from dp_vllm.sim.errors import Refusal
from dp_vllm.sim.lifecycle import Lifecycle
from dp_vllm.sim.metrics import Metrics
from dp_vllm.sim.options import Options
from dp_vllm.sim.server import Handler, Server
from dp_vllm.sim.steps import Steps

_log = logging.getLogger("dp_vllm.sim")
_MAX_BODY_BYTES = 256 * 1024 * 1024
_MAX_LINE_BYTES = 64 * 1024
"""Of the request line, as httptools allows."""
_MAX_HEAD_BYTES = 64 * 1024 * 1024
"""Of headers, which httptools does not bound."""


def run(given: Options, listener: socket.socket) -> int:
    """Load, serve and end; the exit status."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(_run(given, listener))
    return uvloop.run(_run(given, listener))


async def _run(given: Options, listener: socket.socket) -> int:
    life = Lifecycle()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, life.on_signal)
    life.ignores = any(fault.kind == "ignore-sigterm" for fault in given.faults)
    try:
        if not await life.unless_ended(loading.load(given)):
            return 0
    except loading.LoadError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.status
    life.loaded()
    async with asyncio.TaskGroup() as group:
        await _serve(given, listener, life, group)
    return 0


async def _serve(given: Options, listener: socket.socket, life: Lifecycle, group: asyncio.TaskGroup) -> None:
    engine = Engine(given.limits, given.pace)
    metrics = Metrics(engine, given.names[0], given.features)
    app = App(given, engine, Steps(engine), dict(given.adapters), metrics, group)
    door = listen.Door(given.listen, listener)
    control = Control(app, life, door, group)
    server = Server(app, control.handle)
    stepping = group.create_task(app.steps.run())
    await door.serve(_protocol(server.handle, given))
    for fault in given.faults:
        await control.switch_on(fault)
    _log.info("Application startup complete.")
    _log.info("Uvicorn running on %s", listen.describe(given.listen))
    await life.end(app, server, door)
    for task in [stepping, *control.later, *app.background.values()]:
        task.cancel()


class _Connection(web.RequestHandler):
    """A connection whose own errors look like uvicorn's and vLLM's."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """An answer to what is no request, or to one whose handler failed."""
        response: web.StreamResponse = super().handle_error(request, status, exc, message)
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            response = web.Response(status=HTTPStatus.BAD_REQUEST, text="Invalid HTTP request received.")
        else:
            body = Refusal(status, str(exc or ""), "InternalServerError").body
            response = web.Response(status=status, body=body, content_type="application/json")
        response.force_close()
        return response


class _Server(web.Server):
    """Makes such connections."""

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


def _protocol(handler: Handler, given: Options) -> web.Server:
    loop = asyncio.get_running_loop()

    def request(message, payload, protocol, writer, task) -> web.BaseRequest:  # type: ignore[no-untyped-def]
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_MAX_BODY_BYTES)

    return _Server(
        handler,
        request_factory=request,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=given.api.idle_seconds,
        max_line_size=_MAX_LINE_BYTES,
        max_field_size=_MAX_HEAD_BYTES,
        max_headers=_MAX_HEAD_BYTES,
        auto_decompress=False,
    )
