"""Sets scenes: a namespace, its nodes, the way to it, and the end of it all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

import meddler
from cluster.api import connected
from cluster.given import AnyCluster
from cluster.namespaces import new_namespace
from kubelet import Kubelet

from dp_vllm.kubernetes_api import KubernetesApi
from dp_vllm_operator.replica import READY_SECONDS

from .operators import Running
from .scene import Scene


@dataclass(frozen=True, slots=True)
class Stage:
    """Sets scenes."""

    cluster: AnyCluster
    folder: Path

    @contextlib.asynccontextmanager
    async def scene(self, *, nodes: Iterable[int] = (16,)) -> AsyncIterator[Scene]:
        """A namespace with nodes that have so many GPUs. Everything in it ends with the block.

        Its pods have been ready for long enough to count as soon as they are; `kubelet.ready_for(0)` ends that.
        """
        async with contextlib.AsyncExitStack() as stack:
            api = await stack.enter_async_context(connected(self.cluster.kubeconfig))
            namespace = await stack.enter_async_context(new_namespace(api))
            kubelet = Kubelet(self.cluster.kubeconfig, namespace)
            await asyncio.to_thread(kubelet.__enter__)
            stack.push_async_callback(asyncio.to_thread, kubelet.__exit__)
            kubelet.ready_for(READY_SECONDS + 1)
            for number, gpus in enumerate(nodes):
                await asyncio.to_thread(kubelet.add_node, f"node{number}", gpus)
            between = await stack.enter_async_context(meddler.before(self.cluster.kubeconfig))
            meddled = between.kubeconfig(self.folder / f"{namespace}.kubeconfig")
            scene = Scene(namespace, api, self.cluster, kubelet, between, meddled, self.folder)
            stack.push_async_callback(_deleted, api, scene.elsewhere)
            stack.callback(_killed, scene.running)
            yield scene


def _killed(running: Iterable[Running]) -> None:
    for one in running:
        one.kill()


async def _deleted(api: KubernetesApi, paths: Iterable[str]) -> None:
    for path in paths:
        await api.request("DELETE", path)
