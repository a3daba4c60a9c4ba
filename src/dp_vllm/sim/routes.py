"""Which handler answers which path: vLLM's routes, as far as the flags open them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from aiohttp import web

from dp_vllm.sim import about, errors, models
from dp_vllm.sim.app import App
from dp_vllm.sim.chat import chat
from dp_vllm.sim.completions import completions
from dp_vllm.sim.options import Options

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


def routes(options: Options) -> list[Route]:
    """All routes that an engine with these options has."""
    found = [
        Route("GET", "/health", about.health),
        Route("GET", "/ping", about.health),
        Route("POST", "/ping", about.health),
        Route("GET", "/version", about.version),
        Route("GET", "/load", about.load),
        Route("GET", "/v1/models", models.models),
    ]
    if not options.features.pooling:
        found += [_work("/v1/chat/completions", chat), _work("/v1/completions", completions)]
    return found


def _work(path: str, handler: WithBody) -> Route:
    return Route("POST", path, with_body=handler, works=True)


class Table:
    """Finds a request's route."""

    def __init__(self, rows: Iterable[Route]) -> None:
        self.rows = list(rows)
        self._exact = {(row.method, row.path): row for row in self.rows if "{" not in row.path}
        self._paths = {row.path for row in self.rows}
        self._patterns = [
            (row, re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", row.path))) for row in self.rows if "{" in row.path
        ]

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route and what its path's names stand for. Raises Refusal, 404 or 405, in the framework's own shape."""
        row = self._exact.get((method, path))
        if row is not None:
            return row, {}
        known = path in self._paths
        for row, pattern in self._patterns:
            match = pattern.fullmatch(path)
            if match and row.method == method:
                return row, match.groupdict()
            known = known or match is not None
        raise errors.not_allowed() if known else errors.not_found()
