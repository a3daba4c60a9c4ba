"""A connection to the API server that tells what came of each request: for the operator's health and its metrics.

All parts of the operator share it, so each request is told of once. It changes no request and no answer.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from dp_vllm.kubernetes_api import ApiError, KubernetesApi, Unreachable
from dp_vllm_operator.health import Health
from dp_vllm_operator.metrics import Metrics

VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class ReportingApi(KubernetesApi):
    """As the connection that it is made from."""

    def __init__(self, api: KubernetesApi, health: Health, metrics: Metrics) -> None:
        super().__init__(api._client, api.namespace)
        self._health = health
        self._metrics = metrics

    async def text(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        **told: Any,
    ) -> bytes:
        try:
            answer = await super().text(method, path, query=query, **told)
        except (ApiError, Unreachable) as error:
            self._refused(error)
            raise
        self._health.api_answered(_now())
        if method in VERBS and "dryRun" not in (query or {}):
            self._metrics.wrote(VERBS[method], resource(path))
        return answer

    def _refused(self, error: ApiError | Unreachable) -> None:
        if isinstance(error, ApiError) and not error.passes:
            self._health.api_answered(_now())
        else:
            self._health.api_failed(_now(), str(error))


def resource(path: str) -> str:
    """The kind of object that a path is about, with the subresource: `pods`, `dpmodels/status`."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    if parts[0] == "namespaces" and len(parts) > 2:
        parts = parts[2:]
    return "/".join((parts[0], *parts[2:]))


def _now() -> float:
    return asyncio.get_running_loop().time()
