"""Namespaces of single tests, whose pods run on nodes of their own only."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dp_vllm.kubernetes_api import KubernetesApi

NODE_LABEL: Final = "test.dpvllm.io/namespace"
"""On the nodes of a namespace: its name."""

_SECONDS: Final = 30.0
_PATH: Final = "/api/v1/namespaces"


@contextlib.asynccontextmanager
async def new_namespace(api: "KubernetesApi", *, keep_empty: bool = False) -> AsyncIterator[str]:
    """A namespace that takes pods, until the block ends. Its pods wait until a node has its label.

    With `keep_empty` it stays if there is no pod in it then.
    """
    name = f"test-{uuid.uuid4().hex[:8]}"
    annotations = {"scheduler.alpha.kubernetes.io/node-selector": f"{NODE_LABEL}={name}"}
    await api.request("POST", _PATH, body={"metadata": {"name": name, "annotations": annotations}})
    try:
        await _takes_pods(api, name)
        yield name
    finally:
        if not keep_empty or (await api.request("GET", f"{_PATH}/{name}/pods"))["items"]:
            await api.request("DELETE", f"{_PATH}/{name}")


async def _takes_pods(api: "KubernetesApi", namespace: str) -> None:
    """Wait until the namespace has the service account that pods are admitted with."""
    accounts = f"{_PATH}/{namespace}/serviceaccounts"
    async with asyncio.timeout(_SECONDS):
        while not (await api.request("GET", accounts))["items"]:
            await asyncio.sleep(0.05)
