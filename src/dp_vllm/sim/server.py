"""From a request to its handler: root path, key, request id, route, and refusals in vLLM's shapes."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TypeAlias

from aiohttp import web

from dp_vllm.sim import errors, target
from dp_vllm.sim.app import App
from dp_vllm.sim.breakage import strike_body, strike_head
from dp_vllm.sim.faults import BODY, HEAD
from dp_vllm.sim.requests import read_json
from dp_vllm.sim.routes import Route, Table, routes

_GUARDED = ("/v1", "/v2", "/inference", "/cohere")
"""Only below these does vLLM ask for a key."""
_TRUSTED = "127.0.0.1"
"""The only peer whose `X-Forwarded-Proto` uvicorn believes by default."""

Handler: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_access = logging.getLogger("dp_vllm.sim.access")


class Server:
    """Answers requests of one engine."""

    def __init__(self, app: App, control: Handler) -> None:
        self._app = app
        self._control = control
        self._api = app.options.api
        self._table = Table(routes(app.options))
        self._keys = {_digest(key) for key in self._api.keys}
        app.route_list = [(row.method, row.path) for row in self._table.rows if row.described]
        self.in_flight = 0
        self.idle = asyncio.Event()
        """Set while no request is under way."""
        self.idle.set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to any request."""
        begun = time.monotonic()
        headers = request["headers"] = {"server": "dp-vllm-sim"}
        if self._api.request_id_headers:
            headers["x-request-id"] = request.headers.get("X-Request-Id") or uuid.uuid4().hex
        request["route"] = "none"
        request["target"] = target.read(request.raw_path)
        self.in_flight += 1
        self.idle.clear()
        try:
            response = await self._answer(request)
        except errors.Refusal as refusal:
            response = _refused(refusal, request["route"])
            if refusal.status == HTTPStatus.NOT_FOUND and request["route"] == "none":
                response = self._redirected(request) or response
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self.idle.set()
        if not response.prepared:
            response.headers.update(headers)
        self._app.metrics.http.count(request["route"], request.method, response.status, time.monotonic() - begun)
        if self._api.access_log and request.path not in self._api.unlogged_paths:
            line = '%s - "%s %s HTTP/1.1" %d'
            _access.info(line, request.remote or "", request.method, request.rel_url, response.status)
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = self._path(request)
        if path == "/sim/fault":
            return await self._control(request)
        if self._keys and request.method != "OPTIONS" and path.startswith(_GUARDED):
            self._check_key(request)
        preflight = self._api.cors.preflight(request.method, request.headers)
        if preflight is not None:
            return preflight
        request["headers"] |= self._api.cors.of_answer(request.headers.get("Origin"))
        route, request["names"] = self._table.find(request.method, path)
        request["route"] = route.path
        if route.works:
            self._check_engine(request)
        counted = route.works and self._api.load_tracking
        self._app.load += counted
        try:
            return await self._struck(route, request, path)
        finally:
            self._app.load -= counted

    async def _struck(self, route: Route, request: web.BaseRequest, path: str) -> web.StreamResponse:
        """The answer, or what the faults that are on make of it."""
        faults = self._app.faults
        head = faults.strike(HEAD, path, works=route.works)
        if head is not None:
            broken = await strike_head(head, request)
            if broken is not None:
                return broken
        body = request["fault"] = faults.strike(BODY, path, works=route.works)
        response = await self._call(route, request)
        if body is not None and body.kind != "abort" and isinstance(response, web.Response):
            return await strike_body(body, request, response)
        return response

    async def _call(self, route: Route, request: web.BaseRequest) -> web.StreamResponse:
        if route.plain is not None:
            return await route.plain(self._app, request)
        assert route.with_body is not None
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # to HTTP/1.0 too, as uvicorn does
        body = read_json(await request.read(), request.headers.get("Content-Type", ""))
        return await route.with_body(self._app, request, body)

    def _check_engine(self, request: web.BaseRequest) -> None:
        """Raises Refusal if the engine takes no work, or none for this rank: it has one."""
        if self._app.draining:
            raise errors.draining()
        if self._app.dead:
            raise errors.dead()
        rank = request.headers.get("X-data-parallel-rank", "")
        if rank.isdecimal() and int(rank) > 0:
            raise errors.bad_request(f"data_parallel_rank {rank} is out of range [0, 1).")

    def _path(self, request: web.BaseRequest) -> str:
        """With and without the root path."""
        path: str = request["target"].path
        root = self._api.root_path
        return path[len(root) :] if root and path.startswith(root + "/") else path

    def _redirected(self, request: web.BaseRequest) -> web.Response | None:
        """To the path without slashes at its end, if that is a route's."""
        path = self._path(request)
        if not path.endswith("/") or not self._table.knows(path.rstrip("/")):
            return None
        forwarded = request.headers.get("X-Forwarded-Proto", "").strip()
        scheme = forwarded if forwarded in ("http", "https") and request.remote == _TRUSTED else "http"
        address = request.transport.get_extra_info("sockname") if request.transport else None
        server = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else None
        where = target.location(request["target"], scheme, request.headers.get("Host"), server)
        return web.Response(status=HTTPStatus.TEMPORARY_REDIRECT, headers={"location": where})

    def _check_key(self, request: web.BaseRequest) -> None:
        kind, _, key = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or _digest(key) not in self._keys:
            raise errors.Plain(401, {"error": "Unauthorized"})


def _refused(refusal: errors.Refusal, route: str) -> web.Response:
    """In the shape of the route's dialect; the framework's refusals are the same for all."""
    if route.startswith("/v1/messages") and not isinstance(refusal, errors.Plain | errors.Invalid):
        refusal = errors.ForMessages(refusal)
    headers = refusal.headers if isinstance(refusal, errors.Plain) else None
    return web.Response(body=refusal.body, status=refusal.status, headers=headers, content_type="application/json")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
