"""The supervisor's own door: a unix socket where other commands of this user see the run and change it.

The directory is its lock: nobody else can open what is in it. `standing` says what is spoken here.
"""

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
from aiohttp import web

from dp_vllm.errors import DpVllmError
from dp_vllm.local.orders import Orders
from dp_vllm.local.standing import Refusal, ScaleOrder, StopOrder

_Order = TypeVar("_Order")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def serving(path: Path, orders: Orders) -> AsyncIterator[None]:
    """Answer there during the block."""
    application = web.Application()
    application.router.add_get("/state", _state(orders))
    application.router.add_post("/stop", _order(orders, StopOrder, orders.stop))
    application.router.add_post("/scale", _order(orders, ScaleOrder, orders.scale))
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.UnixSite(runner, path).start()
        os.chmod(path, 0o600)
        yield
    finally:
        await runner.cleanup()


def _state(orders: Orders) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return _json(orders.standing())

    return handle


def _order(orders: Orders, kind: type[_Order], carry_out: Callable[[_Order], None]) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            carry_out(msgspec.json.decode(await request.read(), type=kind))
        except msgspec.DecodeError as error:
            return _json(Refusal(f"{request.path}: {error}"), status=400)
        except DpVllmError as error:
            return _json(Refusal(str(error)), status=409)
        return _json(orders.standing())

    return handle


def _json(value: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
