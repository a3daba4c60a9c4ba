"""Answers that speak for all replicas as if they were one: which models there are, how many requests run, which routes.

`/metrics` is merged elsewhere, from what the probes read.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import unquote

import msgspec

from dp_vllm.engine.routes import Reach, parameter, route_of
from dp_vllm_gateway import refusals
from dp_vllm_gateway.config import GatewayConfig
from dp_vllm_gateway.fetch import Fetched, fetch
from dp_vllm_gateway.member import Member
from dp_vllm_gateway.outgoing import Outgoing
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.replies import Refusal
from dp_vllm_gateway.upstream import UpstreamError


class Merged:
    """Asks the available replicas and puts one answer together."""

    def __init__(self, config: GatewayConfig, pool: Pool) -> None:
        self._config = config
        self._pool = pool

    async def answer(self, out: Outgoing) -> Fetched:
        """The answer to one of the merged routes.

        A replica that fails, or whose answer cannot be read, is left out. If all fail, the first one's words are the
        answer. Raises Refusal if there is no replica, none was reached, no answer can be read, or none serves the model
        that is to be described.
        """
        model = parameter(out.route, unquote(out.target.partition("?")[0]))
        answers = await self._ask_all(out, "/v1/models" if model else out.target)
        good = [answer.body for answer in answers if answer.status == 200]
        if not good:
            return answers[0]
        try:
            match out.route.path:
                case "/v1/models":
                    return Fetched(200, models_of(good))
                case _ if model:
                    return Fetched(200, model_of(good, model))
                case "/load":
                    return Fetched(200, load_of(good))
                case _:
                    return Fetched(200, self._document_of(good))
        except _UNREADABLE as error:
            raise Refusal(502, f"no replica's {out.route.path} can be read: {error}") from error

    def _document_of(self, bodies: Sequence[bytes]) -> bytes:
        config = self._config

        def read(body: bytes) -> bytes:
            return document_of(body, config.root_path, unsafe=config.allow_unsafe_routes)

        return next(_readable(bodies, read))

    async def _ask_all(self, out: Outgoing, target: str) -> list[Fetched]:
        members = [member for member in self._pool.members() if member.available]
        if not members:
            raise refusals.no_replica(self._pool)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask(member, out, target)) for member in members]
        answers = [answer for task in tasks if (answer := task.result()) is not None]
        if not answers:
            raise Refusal(502, "no replica answered", code="upstream_reset")
        return answers

    async def _ask(self, member: Member, out: Outgoing, target: str) -> Fetched | None:
        lines = [line for line in out.lines.splitlines(keepends=True) if _sent(line)]
        seconds = self._config.limits.probe_seconds
        try:
            return await fetch(member, "GET", target, b"".join(lines), seconds=seconds)
        except (OSError, UpstreamError):
            return None


def _sent(line: bytes) -> bool:
    """An engine is sent the key and the id: nothing that makes its answer another than the one that is read here."""
    return line.partition(b":")[0].lower() in (b"authorization", b"x-api-key", b"x-request-id")


_UNREADABLE: Final = (ValueError, RecursionError)

_Read = TypeVar("_Read")


def _readable(bodies: Sequence[bytes], read: Callable[[bytes], _Read]) -> Iterator[_Read]:
    """What is read of each body that can be read. Raises the last error if none can."""
    failed = 0
    for body in bodies:
        try:
            value = read(body)
        except _UNREADABLE:
            failed += 1
            if failed == len(bodies):
                raise
        else:
            yield value


class _Models(msgspec.Struct):
    data: list[msgspec.Raw] = []


class _Id(msgspec.Struct):
    id: str


def models_of(bodies: Sequence[bytes]) -> bytes:
    """Each model once, as the first replica that serves it tells of it."""
    return msgspec.json.encode({"object": "list", "data": list(_by_id(bodies).values())})


def model_of(bodies: Sequence[bytes], name: str) -> bytes:
    """One of the models, or of the adapters. Raises Refusal 404 if it is none of them."""
    models = _by_id(bodies)
    if name not in models:
        raise refusals.model_unknown(name, sorted(models))
    return bytes(models[name])


def _by_id(bodies: Sequence[bytes]) -> dict[str, msgspec.Raw]:
    models: dict[str, msgspec.Raw] = {}
    for listed in _readable(bodies, _listed):
        for name, model in listed:
            models.setdefault(name, model)
    return models


def _listed(body: bytes) -> list[tuple[str, msgspec.Raw]]:
    listed = msgspec.json.decode(body, type=_Models).data
    return [(msgspec.json.decode(model, type=_Id).id, model) for model in listed]


MOST_LOAD: Final = 1 << 32
"""Requests that one engine is believed to have."""


class _Load(msgspec.Struct):
    server_load: int = 0


def load_of(bodies: Sequence[bytes]) -> bytes:
    """The requests that run on all replicas."""
    loads = _readable(bodies, lambda body: msgspec.json.decode(body, type=_Load).server_load)
    return msgspec.json.encode(_Load(sum(min(max(load, 0), MOST_LOAD) for load in loads)))


_READY: Any = {
    "get": {
        "summary": "Ready",
        "description": "Whether the gateway works: it has looked at every replica.",
        "operationId": "ready_ready_get",
        "responses": {"200": {"description": "It works"}, "503": {"description": "It begins or ends"}},
    }
}

_RETRIEVE: Any = {
    "get": {
        "summary": "Retrieve Model",
        "description": "One of the models or adapters that `/v1/models` lists.",
        "operationId": "retrieve_model_v1_models__model__get",
        "parameters": [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}],
        "responses": {"200": {"description": "The model"}, "404": {"description": "It does not exist"}},
    }
}


def document_of(body: bytes, root_path: str, *, unsafe: bool) -> bytes:
    """An engine's OpenAPI document as the endpoint's: with what is answered here, without what is refused here."""
    document = msgspec.json.decode(body, type=dict[str, Any])
    described = msgspec.convert(document.get("paths", {}), dict[str, dict[str, Any]])
    paths = {path: _open(path, item, unsafe) for path, item in described.items()}
    own = {"/v1/models/{model}": _RETRIEVE, "/ready": _READY}
    document["paths"] = {path: item for path, item in paths.items() if item} | own
    document.pop("servers", None)
    if root_path:
        document["servers"] = [{"url": root_path}]
    return msgspec.json.encode(document)


def _open(path: str, item: dict[str, Any], unsafe: bool) -> dict[str, Any]:
    if unsafe:
        return item
    return {method: said for method, said in item.items() if route_of(method.upper(), path).reach is not Reach.NEVER}
