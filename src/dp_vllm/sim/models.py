"""`/v1/models`."""

from __future__ import annotations

import time
import uuid
from typing import Any

from aiohttp import web

from dp_vllm.sim.app import App


async def models(app: App, request: web.BaseRequest) -> web.StreamResponse:
    """Every served name, then the adapters. Times and permission ids differ per call, as vLLM's do."""
    base = app.options.names[0]
    cards = [_card(app, name, app.options.model, None) for name in app.options.names]
    cards += [_card(app, name, path, base) for name, path in app.adapters.items()]
    return app.json({"object": "list", "data": cards})


def _card(app: App, name: str, root: str, parent: str | None) -> dict[str, Any]:
    now = int(time.time())
    permission = {
        "id": f"modelperm-{uuid.uuid4().hex[:16]}",
        "object": "model_permission",
        "created": now,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": now,
        "owned_by": "dp-vllm-sim",
        "root": root,
        "parent": parent,
        "max_model_len": app.engine.limits.max_model_len if parent is None else None,
        "permission": [permission],
    }
