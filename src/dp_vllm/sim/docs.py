"""`/openapi.json` and `/docs`: the routes that this engine really has."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from dp_vllm.sim import descriptions
from dp_vllm.sim.app import FINGERPRINT, VLLM_VERSION, App

_PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<h1>{title}</h1><p>Its routes are listed in <a href="openapi.json">openapi.json</a>; no model is run.</p>
"""


async def openapi(app: App, request: web.BaseRequest) -> web.StreamResponse:
    """Paths and methods, and bodies as far as `descriptions` has them."""
    paths: dict[str, Any] = {}
    for method, path in app.route_list:
        names = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"\{(\w+)\}", path)
        ]
        described = descriptions.operation(path)
        paths.setdefault(path, {})[method.lower()] = described | ({"parameters": names} if names else {})
    info = {"title": f"vLLM, simulated by {FINGERPRINT}", "version": f"{VLLM_VERSION}+simulated"}
    components = {"schemas": descriptions.COMPONENTS}
    return app.json({"openapi": "3.1.0", "info": info, "paths": paths, "components": components})


async def page(app: App, request: web.BaseRequest) -> web.StreamResponse:
    """A page for people."""
    return web.Response(text=_PAGE.format(title=FINGERPRINT), content_type="text/html")
