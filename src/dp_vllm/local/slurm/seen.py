"""Where `dp-vllm status` asks a gateway how it is, on a node that has none: what the first node's does is told."""

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from dp_vllm.local.crew import Sight
from dp_vllm.local.probe import GatewayState, ReplicaState
from dp_vllm.local.slurm.member import Member

_CURRENT: Final = 1 << 53
"""A generation of the endpoints file that is none: what is told is always of the latest."""


def as_state(sight: Sight) -> GatewayState:
    """As the gateway itself would say it, without what is in flight at each replica: that is not told here."""
    return GatewayState(_CURRENT, sight.in_flight, {name: ReplicaState(available=True) for name in sight.uses})


@contextlib.asynccontextmanager
async def telling(path: Path, member: Member) -> AsyncIterator[None]:
    """Answer `GET /state` there during the block."""

    async def state(request: web.Request) -> web.StreamResponse:
        body = msgspec.json.encode(as_state(member.sight or Sight()))
        return web.Response(body=body, content_type="application/json")

    async def metrics(request: web.Request) -> web.StreamResponse:
        return web.Response()

    application = web.Application()
    application.router.add_get("/state", state)
    application.router.add_get("/metrics", metrics)
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.UnixSite(runner, path).start()
        os.chmod(path, 0o600)
        yield
    finally:
        await runner.cleanup()
