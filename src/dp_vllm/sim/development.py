"""Routes of VLLM_SERVER_DEV_MODE: sleep, pause, caches."""

from __future__ import annotations

import json
from typing import Any, cast

from aiohttp import web

from dp_vllm.sim.app import App
from dp_vllm.sim.errors import Refusal, bad_request

_MODES = ("abort", "wait", "keep")
_SCALE_OUT = "Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out to enable them."


async def sleep(app: App, request: web.BaseRequest) -> web.StreamResponse:
    """Free the GPU: nothing runs until `/wake_up`. From level 1 on the prefix cache is lost."""
    level = request.query.get("level", "1")
    if level not in ("0", "1", "2"):
        raise bad_request(f"level must be 0, 1 or 2, got {level!r}.", "level")
    await _stand_still(app, request.query.get("mode", "abort"), "sleep")
    if level != "0":
        app.engine.forget_prefixes()
    app.asleep = True
    return web.Response()


async def wake_up(app: App, request: web.BaseRequest) -> web.StreamResponse:
    app.asleep = False
    app.steps.let_go("sleep")
    return web.Response()


async def is_sleeping(app: App, request: web.BaseRequest) -> web.StreamResponse:
    return app.json({"is_sleeping": app.asleep})


async def pause(app: App, request: web.BaseRequest) -> web.StreamResponse:
    """Stand still until `/resume`."""
    await _stand_still(app, request.query.get("mode", "abort"), "pause")
    app.paused = True
    return app.json({"status": "paused"})


async def resume(app: App, request: web.BaseRequest) -> web.StreamResponse:
    app.paused = False
    app.steps.let_go("pause")
    return app.json({"status": "resumed"})


async def is_paused(app: App, request: web.BaseRequest) -> web.StreamResponse:
    return app.json({"is_paused": app.paused})


async def reset_prefix_cache(app: App, request: web.BaseRequest) -> web.StreamResponse:
    """Forget all prefixes. As in vLLM the answer is 200 even if running requests prevent it."""
    app.engine.forget_prefixes()
    return web.Response()


async def nothing(app: App, request: web.BaseRequest) -> web.StreamResponse:
    """What concerns parts that are not simulated: accepted, without effect."""
    return web.Response()


async def abort_requests(app: App, request: web.BaseRequest) -> web.StreamResponse:
    """End requests with finish_reason abort: those with the given ids, or all. As in vLLM unknown ids count too."""
    try:
        body = json.loads(await request.read())
    except ValueError as error:
        raise Refusal(400, "Invalid JSON format") from error
    if not isinstance(body, dict):
        raise Refusal(400, "Request body must be a JSON object")
    engine, named = app.engine, cast(Any, body.get("request_ids"))
    ids = _ids(named) if named else None
    count = len(engine.running) + len(engine.waiting) if ids is None else len(named)
    engine.end_all("abort", ids)
    return app.json({"status": "aborted", "aborted": count})


async def abort_named(app: App, request: web.BaseRequest) -> web.StreamResponse:
    """`/inference/v1/abort_requests`, and `/abort_requests` with `--tokens-only`: end the named requests."""
    try:
        body = json.loads(await request.read())
    except ValueError as error:
        raise Refusal(400, f"JSON decode error: {error}") from error
    if not isinstance(body, dict):
        raise Refusal(500, f"{type(body).__name__!r} object has no attribute 'get'", "InternalServerError")
    if body.get("request_ids") is None:
        raise Refusal(400, "Missing 'request_ids' in request body")
    app.engine.end_all("abort", _ids(body["request_ids"]))
    return web.Response()


async def scale_out_disabled(app: App, request: web.BaseRequest) -> web.StreamResponse:
    """What the routes for disaggregated serving answer without `--enable-scale-out`."""
    raise Refusal(403, _SCALE_OUT, "PermissionDeniedError")


def _ids(value: Any) -> list[Any]:
    """One id or several, as vLLM takes them."""
    if not isinstance(value, str | list | dict):
        raise Refusal(500, f"{type(value).__name__!r} object is not iterable", "InternalServerError")
    return [value] if isinstance(value, str) else list(value)


async def server_info(app: App, request: web.BaseRequest) -> web.StreamResponse:
    return app.json({"vllm_config": json.dumps({"model": app.options.model, "simulated": True})})


async def weight_info(app: App, request: web.BaseRequest) -> web.StreamResponse:
    return app.json({"weight_version": None})


async def world_size(app: App, request: web.BaseRequest) -> web.StreamResponse:
    return app.json({"world_size": 1})


async def _stand_still(app: App, mode: str, reason: str) -> None:
    """Abort what runs, wait for it, or freeze it; then let no step begin."""
    if mode not in _MODES:
        raise bad_request(f"mode must be one of {', '.join(_MODES)}, got {mode!r}.", "mode")
    if mode == "wait":
        await app.steps.until_idle()
    app.steps.hold(reason)
    if mode == "abort":
        app.engine.end_all("abort")
