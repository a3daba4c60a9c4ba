"""What becomes of pods, change by change: what a look now and then would miss."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from dp_vllm.kubernetes_api import KubernetesApi, Object


@dataclass(frozen=True, slots=True)
class Moment:
    """A model's replicas at one moment, by name. Those that are about to be gone are neither."""

    live: frozenset[str]
    ready: frozenset[str]

    @classmethod
    def of(cls, pods: Iterable[Object]) -> "Moment":
        live = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        ready = [pod for pod in live if ("Ready", "True") in _conditions(pod)]
        return cls(*(frozenset(pod["metadata"]["name"] for pod in some) for some in (live, ready)))


@contextlib.asynccontextmanager
async def history(api: KubernetesApi, path: str, selector: str) -> AsyncIterator[list[Moment]]:
    """Every moment of the pods that a selector selects, while the block runs."""
    answer = await api.request("GET", path, query={"labelSelector": selector})
    present = {pod["metadata"]["name"]: pod for pod in answer["items"]}
    moments = [Moment.of(present.values())]
    query = {"labelSelector": selector, "watch": "1", "resourceVersion": answer["metadata"]["resourceVersion"]}

    async def follow() -> None:
        async for line in api.lines(path, query, silence_seconds=600):
            event = json.loads(line)
            pod = event["object"]
            present[pod["metadata"]["name"]] = pod
            if event["type"] == "DELETED":
                del present[pod["metadata"]["name"]]
            moments.append(Moment.of(present.values()))

    following = asyncio.create_task(follow())
    try:
        yield moments
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


def _conditions(pod: Object) -> set[tuple[str, str]]:
    return {(one["type"], one["status"]) for one in pod["status"].get("conditions", ())}
