"""From a request to its handler: root path, key, request id, route, and refusals in vLLM's shapes."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid

from aiohttp import web

from dp_vllm.sim import errors
from dp_vllm.sim.app import App
from dp_vllm.sim.requests import read_json
from dp_vllm.sim.routes import Route, Table, routes

_GUARDED = ("/v1", "/v2", "/inference", "/cohere")
"""Only below these does vLLM ask for a key."""

_access = logging.getLogger("dp_vllm.sim.access")


class Server:
    """Answers requests of one engine."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._api = app.options.api
        self._table = Table(routes(app.options))
        self._keys = {_digest(key) for key in self._api.keys}
        self.in_flight = 0
        self.idle = asyncio.Event()
        """Set while no request is under way."""
        self.idle.set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to any request."""
        headers = {"server": "dp-vllm-sim"}
        if self._api.request_id_headers:
            headers["x-request-id"] = request.headers.get("X-Request-Id") or uuid.uuid4().hex
        request["headers"] = headers
        self.in_flight += 1
        self.idle.clear()
        try:
            response = await self._answer(request)
        except errors.Refusal as refusal:
            response = web.Response(body=refusal.body, status=refusal.status, content_type="application/json")
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self.idle.set()
        if not response.prepared:
            response.headers.update(headers)
        if self._api.access_log:
            _access.info(
                '%s - "%s %s HTTP/1.1" %d', request.remote or "", request.method, request.rel_url, response.status
            )
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = self._path(request)
        if self._keys and request.method != "OPTIONS" and path.startswith(_GUARDED):
            self._check_key(request)
        route, request["names"] = self._table.find(request.method, path)
        if not route.works:
            return await self._call(route, request)
        if self._app.draining:
            raise errors.draining()
        if self._app.dead:
            raise errors.dead()
        self._app.load += self._api.load_tracking
        try:
            return await self._call(route, request)
        finally:
            self._app.load -= self._api.load_tracking

    async def _call(self, route: Route, request: web.BaseRequest) -> web.StreamResponse:
        if route.plain is not None:
            return await route.plain(self._app, request)
        assert route.with_body is not None
        body = read_json(await request.read(), request.headers.get("Content-Type", ""))
        return await route.with_body(self._app, request, body)

    def _path(self, request: web.BaseRequest) -> str:
        """With and without the root path."""
        path, root = request.path, self._api.root_path
        return path[len(root) :] if root and path.startswith(root + "/") else path

    def _check_key(self, request: web.BaseRequest) -> None:
        kind, _, key = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or _digest(key) not in self._keys:
            raise errors.Plain(401, {"error": "Unauthorized"})


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
