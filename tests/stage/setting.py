"""Sets scenes: a namespace, its nodes, the way to it, and the end of it all."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import meddler
from cluster.api import connected
from cluster.given import AnyCluster
from cluster.namespaces import manifest
from kubelet import Kubelet

from dp_vllm.kubernetes_api import ApiError, KubernetesApi
from dp_vllm_operator.cluster import Kind

from .operators import Operators, Running
from .scene import Scene

NAMESPACES: Final = Kind("v1", "namespaces")


@dataclass(frozen=True, slots=True)
class Stage:
    """Sets scenes."""

    cluster: AnyCluster
    operators: Operators
    folder: Path

    @contextlib.asynccontextmanager
    async def scene(self, *, nodes: Iterable[int] = (16,)) -> AsyncIterator[Scene]:
        """A namespace with nodes that have so many GPUs. Everything in it ends with the block."""
        namespace = f"test-{uuid.uuid4().hex[:8]}"
        async with contextlib.AsyncExitStack() as stack:
            api = await stack.enter_async_context(connected(self.cluster.kubeconfig))
            await api.request("POST", NAMESPACES.path(), body=json.loads(manifest(namespace)))
            stack.push_async_callback(_forgotten, api, namespace)
            kubelet = Kubelet(self.cluster.kubeconfig, namespace)
            await asyncio.to_thread(kubelet.__enter__)
            stack.push_async_callback(asyncio.to_thread, kubelet.__exit__)
            for number, gpus in enumerate(nodes):
                await asyncio.to_thread(kubelet.add_node, f"node{number}", gpus)
            between = await stack.enter_async_context(meddler.before(self.cluster.kubeconfig))
            meddled = between.kubeconfig(self.folder / f"{namespace}.kubeconfig")
            scene = Scene(namespace, api, self.cluster, kubelet, self.operators, between, meddled)
            stack.push_async_callback(_deleted, api, scene.elsewhere)
            stack.callback(_killed, scene.running)
            await scene.until(lambda: _has(scene, Kind("v1", "serviceaccounts"), "default"), "the service account")
            yield scene


async def _has(scene: Scene, kind: Kind, name: str) -> bool:
    try:
        await scene.get(kind, name)
    except ApiError as error:
        if error.status == 404:
            return False
        raise
    return True


def _killed(running: Iterable[Running]) -> None:
    for one in running:
        one.kill()


async def _deleted(api: KubernetesApi, paths: Iterable[str]) -> None:
    for path in paths:
        await api.request("DELETE", path)


async def _forgotten(api: KubernetesApi, namespace: str) -> None:
    await api.request("DELETE", NAMESPACES.path(name=namespace))
