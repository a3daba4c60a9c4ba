"""LoRA adapters: names that may be asked for. vLLM opens these routes with VLLM_ALLOW_RUNTIME_LORA_UPDATING."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from dp_vllm.sim.app import App
from dp_vllm.sim.errors import Refusal, bad_request
from dp_vllm.sim.requests import convert


class Load(msgspec.Struct, kw_only=True):
    lora_name: str
    lora_path: str
    load_inplace: bool = False


class Unload(msgspec.Struct, kw_only=True):
    lora_name: str


async def load(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    """`/v1/load_lora_adapter`."""
    body = convert(value, Load)
    if not body.lora_name or not body.lora_path:
        raise Refusal(400, "Both 'lora_name' and 'lora_path' must be provided.", "InvalidUserInput")
    if body.lora_name in app.models and not (body.load_inplace and body.lora_name in app.adapters):
        name = body.lora_name
        message = f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set"
        raise Refusal(400, message + " 'load_inplace' to True.", "InvalidUserInput")
    app.adapters[body.lora_name] = body.lora_path
    return web.Response(text=f"Success: LoRA adapter '{body.lora_name}' added successfully.")


async def unload(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    """`/v1/unload_lora_adapter`."""
    return _remove(app, convert(value, Unload).lora_name)


async def add(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    """`/adapters`, which takes `name` and `src`."""
    name, source = value.get("name"), value.get("src")
    if not isinstance(name, str) or not isinstance(source, str):
        raise bad_request("name and src are required.", "name")
    return await load(app, request, {"lora_name": name, "lora_path": source})


async def remove(app: App, request: web.BaseRequest) -> web.StreamResponse:
    """`/adapters/{name}`."""
    return _remove(app, request["names"]["name"])


def _remove(app: App, name: str) -> web.Response:
    if app.adapters.pop(name, None) is None:
        raise Refusal(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
    return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")
