"""Stands between the operator and a real API server, and does to their talk what a bad day does.

It passes everything on until a test tells it otherwise: refuse a write, or let it happen and lose the answer, swallow
watch events, answer a list as it was before, be away. What it sees it counts.
"""

import asyncio
import contextlib
import enum
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
import yaml
from aiohttp import web
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import load_kube_config

WRITES: Final = ("POST", "PUT", "PATCH", "DELETE")
_HOP: Final = ("transfer-encoding", "content-length", "content-encoding", "connection")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: str

    @property
    def writes(self) -> bool:
        return self.method in WRITES and "dryRun=" not in self.query

    @property
    def watches(self) -> bool:
        return "watch=true" in self.query or "watch=1" in self.query


class Fate(enum.Enum):
    """What becomes of a request."""

    PASS = "pass"
    LOST = "it never reaches the API server"
    UNANSWERED = "it is carried out, and its answer is lost"
    CONFLICT = "409"
    BROKEN = "500"
    MISSING = "404"
    TOO_MANY = "429"


class Meddler:
    """A proxy. Its attributes may be set at any time."""

    def __init__(self, server: str, context: ssl.SSLContext) -> None:
        self._server = server
        self._context = context
        self.fate: Callable[[Asked], Fate] = lambda asked: Fate.PASS
        """Asked for each request that is no watch."""
        self.swallow: Callable[[Asked, bytes], bool] = lambda asked, event: False
        """Whether a watch event is lost."""
        self.stale: Callable[[Asked], bool] = lambda asked: False
        """Whether a GET is answered as it was the last time, if there was one."""
        self.away = False
        """Every connection ends without an answer."""
        self.asked: list[Asked] = []
        self.url = ""
        self._answers: dict[tuple[str, str], tuple[int, bytes]] = {}

    @property
    def writes(self) -> list[Asked]:
        """All writes that were tried, in their order."""
        return [asked for asked in self.asked if asked.writes]

    @contextlib.asynccontextmanager
    async def standing(self) -> AsyncIterator["Meddler"]:
        """Listen until the block ends."""
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(limit=0, ssl=self._context)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False) as self._session:
            runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            try:
                yield self
            finally:
                await runner.cleanup()

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that leads here."""
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "meddler",
                    "clusters": [{"name": "meddler", "cluster": {"server": self.url}}],
                    "users": [{"name": "meddler", "user": {}}],
                    "contexts": [{"name": "meddler", "context": {"cluster": "meddler", "user": "meddler"}}],
                }
            )
        )
        return path

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        asked = Asked(request.method, request.path, request.query_string)
        body = await request.read()
        if self.away:
            return self._drop(request)
        self.asked.append(asked)
        try:
            return await (self._watch(request, asked) if asked.watches else self._answer(request, asked, body))
        except (aiohttp.ClientError, ConnectionError):  # one of the two has gone
            return self._drop(request)

    async def _answer(self, request: web.BaseRequest, asked: Asked, body: bytes) -> web.StreamResponse:
        fate = self.fate(asked)
        if fate is Fate.LOST:
            return self._drop(request)
        if fate in _REASONS:
            return _refusal(fate)
        status, content = await self._forward(request, asked, body)
        if fate is Fate.UNANSWERED or self.away:
            return self._drop(request)
        return web.Response(status=status, body=content, content_type="application/json")

    async def _forward(self, request: web.BaseRequest, asked: Asked, body: bytes) -> tuple[int, bytes]:
        key = (asked.path, asked.query)
        if asked.method == "GET" and key in self._answers and self.stale(asked):
            return self._answers[key]
        headers = {name: value for name, value in request.headers.items() if name.lower() in ("content-type", "accept")}
        url = self._server + request.path_qs
        async with self._session.request(asked.method, url, data=body or None, headers=headers) as answer:
            found = answer.status, await answer.read()
        if asked.method == "GET":
            self._answers[key] = found
        return found

    async def _watch(self, request: web.BaseRequest, asked: Asked) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        async with self._session.get(self._server + request.path_qs) as answer:
            response.set_status(answer.status)
            await response.prepare(request)
            async for line in answer.content:
                if self.away:
                    return self._drop(request)
                if not self.swallow(asked, line):
                    await response.write(line)
        return response

    def _drop(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        raise asyncio.CancelledError


_REASONS: Final = {
    Fate.CONFLICT: "Conflict",
    Fate.BROKEN: "InternalError",
    Fate.MISSING: "NotFound",
    Fate.TOO_MANY: "TooManyRequests",
}


def _refusal(fate: Fate) -> web.Response:
    status = int(fate.value)
    said = {"kind": "Status", "status": "Failure", "code": status, "message": "a bad day", "reason": _REASONS[fate]}
    return web.Response(status=status, body=msgspec.json.encode(said), content_type="application/json")


@contextlib.asynccontextmanager
async def before(kubeconfig: Path) -> AsyncIterator[Meddler]:
    """Stand before the API server that a kubeconfig of the test bed leads to."""
    configuration = Configuration()
    await load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    assert configuration.cert_file
    context.load_cert_chain(configuration.cert_file, configuration.key_file)
    async with Meddler(configuration.host, context).standing() as meddler:
        yield meddler
