"""Which handler answers which path: vLLM's routes, as far as the flags open them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from aiohttp import web

from dp_vllm.sim import about, development, docs, errors, lora, messages, models, pooling, responses, tokenizing
from dp_vllm.sim.app import App
from dp_vllm.sim.chat import chat
from dp_vllm.sim.completions import completions
from dp_vllm.sim.options import Features, Options
from dp_vllm.sim.realtime import realtime

Plain: TypeAlias = Callable[[App, web.BaseRequest], Awaitable[web.StreamResponse]]
WithBody: TypeAlias = Callable[[App, web.BaseRequest, dict[str, Any]], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One route; `{name}` in its path stands for one segment. It has one of the two handlers."""

    method: str
    path: str
    plain: Plain | None = None
    with_body: WithBody | None = None
    works: bool = False
    """It needs the engine: refused while draining, counted in `/load`."""
    described: bool = True
    """It is in `/openapi.json`."""
    head: bool = False
    """It answers HEAD too."""

    @property
    def allowed(self) -> str:
        """Its methods, as a 405 lists them."""
        return f"{self.method}, HEAD" if self.head else self.method


def routes(options: Options) -> list[Route]:
    """All routes that an engine with these options has."""
    features = options.features
    found = [*_ABOUT, *(_POOLING if features.pooling else _GENERATION)]
    if features.pooling:
        found += _CLASSIFY if features.classify else _EMBED
    if options.api.docs:
        found += _DOCS
    if features.tokenizer_info:
        found.append(Route("GET", "/tokenizer_info", tokenizing.tokenizer_info))
    if features.lora and features.lora_updates:
        found += _LORA
    if features.dev_mode:
        found += _DEVELOPMENT
    if not features.pooling:
        found += _scale_out(features)
    return found


def _scale_out(features: Features) -> list[Route]:
    """The routes for disaggregated serving: closed, or what is simulated of them. The first of a path counts."""
    if not features.scale_out:
        return [Route("POST", path, development.scale_out_disabled, described=False) for path in _SCALE_OUT]
    found = [_post("/inference/v1/abort_requests", development.abort_named)]
    if features.tokens_only and not features.dev_mode:
        found.append(_post("/abort_requests", development.abort_named))
    return found


async def invocations(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    """SageMaker's one route for everything: what the body looks like decides."""
    return await (chat if "messages" in value else completions)(app, request, value)


def _work(path: str, handler: WithBody) -> Route:
    return Route("POST", path, with_body=handler, works=True)


def _post(path: str, handler: Plain) -> Route:
    return Route("POST", path, handler)


def _get(path: str, handler: Plain) -> Route:
    return Route("GET", path, handler)


_METRICS = _get("/metrics", about.metrics)
"""vLLM answers it on every path that begins so, whatever the method."""
_ABOUT = (
    _get("/health", about.health),
    _get("/ping", about.health),
    _post("/ping", about.health),
    _get("/version", about.version),
    _get("/load", about.load),
    _METRICS,
    _get("/kv_event_sources", about.kv_event_sources),
    _get("/v1/models", models.models),
    Route("POST", "/tokenize", with_body=tokenizing.tokenize),
    Route("POST", "/detokenize", with_body=tokenizing.detokenize),
)
_DOCS = (
    Route("GET", "/openapi.json", docs.openapi, head=True),
    *(Route("GET", path, docs.page, head=True) for path in ("/docs", "/docs/oauth2-redirect", "/redoc")),
)
_GENERATION = (
    _work("/v1/chat/completions", chat),
    _work("/v1/completions", completions),
    _work("/v1/responses", responses.create),
    _get("/v1/responses/{response_id}", responses.retrieve),
    _post("/v1/responses/{response_id}/cancel", responses.cancel),
    _work("/v1/messages", messages.messages),
    Route("POST", "/v1/messages/count_tokens", with_body=messages.count_tokens),
    _work("/invocations", invocations),
    _get("/v1/realtime", realtime),
)
_POOLING = (_work("/pooling", pooling.pooling),)
_CLASSIFY = (_work("/classify", pooling.classify),)
_EMBED = (
    _work("/v1/embeddings", pooling.embeddings),
    _work("/v2/embed", pooling.cohere_embed),
    *(_work(path, pooling.score) for path in ("/score", "/v1/score")),
    *(_work(path, pooling.rerank) for path in ("/rerank", "/v1/rerank", "/v2/rerank")),
)
_LORA = (
    Route("POST", "/v1/load_lora_adapter", with_body=lora.load),
    Route("POST", "/v1/unload_lora_adapter", with_body=lora.unload),
    Route("POST", "/adapters", with_body=lora.add),
    Route("DELETE", "/adapters/{name}", lora.remove),
)
_DEVELOPMENT = (
    _post("/sleep", development.sleep),
    _post("/wake_up", development.wake_up),
    _get("/is_sleeping", development.is_sleeping),
    _post("/pause", development.pause),
    _post("/resume", development.resume),
    _get("/is_paused", development.is_paused),
    _post("/reset_prefix_cache", development.reset_prefix_cache),
    _post("/reset_mm_cache", development.nothing),
    _post("/reset_encoder_cache", development.nothing),
    _post("/release_kv_cache_memory", development.nothing),
    _post("/abort_requests", development.abort_requests),
    _get("/server_info", development.server_info),
    _get("/weight_info", development.weight_info),
    _get("/get_world_size", development.world_size),
)
_SCALE_OUT = (
    *(f"/v1/{dialect}/render" for dialect in ("chat/completions", "messages", "completions", "responses")),
    *("/v1/chat/completions/derender", "/v1/completions/derender"),
    *("/inference/v1/generate", "/inference/v1/abort_requests"),
)


class Table:
    """Finds a request's route."""

    def __init__(self, rows: Iterable[Route]) -> None:
        self.rows = list(rows)
        self._exact: dict[tuple[str, str], Route] = {}
        self._allowed: dict[str, str] = {}
        """What a 405 says of each path: of its first route alone, as Starlette does."""
        for row in self.rows:
            if "{" not in row.path:
                for method in row.allowed.split(", "):
                    self._exact.setdefault((method, row.path), row)
                self._allowed.setdefault(row.path, row.allowed)
        self._patterns = [
            (row, re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", row.path))) for row in self.rows if "{" in row.path
        ]

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route and what its path's names stand for. Raises Refusal, 404 or 405, in the framework's own shape."""
        row = self._exact.get((method, path))
        if row is not None:
            return row, {}
        if path.startswith(_METRICS.path):
            return _METRICS, {}
        allowed = self._allowed.get(path, "")
        for row, pattern in self._patterns:
            match = pattern.fullmatch(path)
            if match and row.method == method:
                return row, match.groupdict()
            allowed = allowed or (row.allowed if match else "")
        raise errors.not_allowed(allowed) if allowed else errors.not_found()

    def knows(self, path: str) -> bool:
        """Whether some method of this path is answered."""
        return path in self._allowed or any(pattern.fullmatch(path) for _, pattern in self._patterns)
