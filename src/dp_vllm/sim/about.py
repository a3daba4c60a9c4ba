"""Routes that say how the server is: health, version, load, docs."""

from __future__ import annotations

import asyncio

from aiohttp import web

from dp_vllm.sim.app import FINGERPRINT, VLLM_VERSION, App


async def health(app: App, request: web.BaseRequest) -> web.StreamResponse:
    """200 as long as the engine was not found dead; so also while it hangs or drains."""
    slow = app.faults.get("slow-health")
    if slow is not None:
        await asyncio.sleep(slow.seconds or 0.0)
    return web.Response(status=503 if app.dead else 200)


async def version(app: App, request: web.BaseRequest) -> web.StreamResponse:
    """The imitated release, and that it is imitated."""
    return app.json({"version": f"{VLLM_VERSION}+simulated", "simulated_by": FINGERPRINT})


async def load(app: App, request: web.BaseRequest) -> web.StreamResponse:
    """HTTP requests under way; always 0 without `--enable-server-load-tracking`."""
    return app.json({"server_load": app.load})


async def metrics(app: App, request: web.BaseRequest) -> web.StreamResponse:
    """Prometheus' exposition."""
    return app.metrics.text()


async def kv_event_sources(app: App, request: web.BaseRequest) -> web.StreamResponse:
    """None: events of the prefix cache are not simulated."""
    return app.json({})
