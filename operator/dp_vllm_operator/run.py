"""Runs one operator process: what is connected to what, and how it ends."""

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Awaitable, Mapping
from typing import Any, Final

from dp_vllm import names
from dp_vllm.errors import UserError
from dp_vllm.kubernetes_api import ApiError, Unreachable, connect
from dp_vllm_operator import handlers, lease
from dp_vllm_operator.cluster import Cluster
from dp_vllm_operator.events import Recorder
from dp_vllm_operator.health import Health, serving
from dp_vllm_operator.metrics import Metrics
from dp_vllm_operator.neighbours import Neighbours
from dp_vllm_operator.queue import Key, Keys, work
from dp_vllm_operator.reconcile import Reconciler
from dp_vllm_operator.reporting import ReportingApi
from dp_vllm_operator.settings import Settings

RESYNC_SPREAD: Final = 0.2
"""The share by which the time between two resyncs varies, so that several operators do not ask at once."""

RETRY_SECONDS: Final = 2.0
"""Between two tries to reach the API server at the start."""

SETTLE_SECONDS: Final = 0.1
"""What happens to a model within so long is looked at at once: a pod's start is told in four pieces."""

log = logging.getLogger(__name__)


async def run(settings: Settings) -> None:
    """Serve until told to end (SIGTERM, SIGINT). Raises UserError if there is nothing to serve."""
    keys = Keys(rng=random.Random())  # noqa: S311 - for back-offs
    health = Health(keys)
    metrics = Metrics(keys, health)
    async with connect() as connection, serving(settings.health_port, health, metrics.registry):
        api = ReportingApi(connection, health, metrics)
        cluster = Cluster(api)
        await _demand_kind(cluster, settings)
        async with lease.hold(api, settings.namespaces or (settings.lease_namespace,), settings.identity) as lost:
            metrics.leads(True)
            recorder = Recorder(api, settings.identity)
            neighbours = Neighbours(api, settings.lease_namespace)
            operator = _Operator(settings, cluster, neighbours, keys, health, metrics, recorder)
            await _until_first(
                handlers.watch(settings, api, operator.heard),
                operator.work(),
                operator.resync(),
                operator.watch_neighbours(),
                recorder.run(),
                _end_when(lost),
            )


class _Operator:
    """What happens while the Lease is held."""

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        neighbours: Neighbours,
        keys: Keys,
        health: Health,
        metrics: Metrics,
        recorder: Recorder,
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._neighbours = neighbours
        self._keys = keys
        self._health = health
        self._metrics = metrics
        self._reconciler = Reconciler(cluster, settings, recorder, metrics.models)
        self._rng = random.Random()  # noqa: S311 - for the time between resyncs

    def heard(self, namespace: str, model: str, metadata: Mapping[str, Any], child: str) -> None:
        """A watch told of a model, or of something of it; `child` is what `child_changed` is to know of, or empty."""
        self._health.heard(metadata["uid"], metadata["resourceVersion"], asyncio.get_running_loop().time())
        key = Key(namespace, model)
        if child:
            self._reconciler.child_changed(key, child, metadata["resourceVersion"])
        self._keys.add_after(key, SETTLE_SECONDS)

    async def work(self) -> None:
        """Reconcile what is queued."""
        await work(self._keys, self._reconcile, workers=self._settings.workers, finished=self._metrics.reconciled)

    async def _reconcile(self, key: Key) -> float | None:
        if key.namespace in self._neighbours.left_out:
            self._reconciler.forget(key)
            return None
        return await self._reconciler.reconcile(key)

    async def resync(self) -> None:
        """Look at everything now and then, whatever watches have told of."""
        while True:
            seconds = self._settings.resync_seconds
            try:
                await self._look_at_all()
            except (ApiError, Unreachable) as error:
                log.warning("resync: %s", error)
                seconds = min(seconds, 10.0)
            await asyncio.sleep(seconds * self._rng.uniform(1 - RESYNC_SPREAD, 1 + RESYNC_SPREAD))

    async def _look_at_all(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        models = await self._cluster.models(self._settings.namespaces)
        pods = await self._cluster.all_pods(self._settings.namespaces)
        versions = {body["metadata"]["uid"]: body["metadata"]["resourceVersion"] for body in (*models, *pods)}
        self._health.listed(versions, began, loop.time())
        for body in models:
            key = Key(body["metadata"]["namespace"], body["metadata"]["name"])
            self._reconciler.look_at_all(key)
            self._keys.add(key)

    async def watch_neighbours(self) -> None:
        """Leave namespaces to operators of their own, and take them back."""
        if self._settings.namespaces:
            await asyncio.get_running_loop().create_future()  # nobody else's: these are ours by their Leases
        again = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._neighbours.watch(again.set))
            while True:
                await again.wait()
                again.clear()
                log.info("namespaces with an operator of their own: %s", ", ".join(sorted(self._neighbours.left_out)))
                await self._look_at_all()


async def _demand_kind(cluster: Cluster, settings: Settings) -> None:
    """Say clearly what is missing, rather than watch nothing.

    An API server that does not answer is waited for: whoever ends and is started anew, is started ever later.
    """
    said = ""
    while True:
        try:
            await cluster.models(settings.namespaces)
            return
        except (ApiError, Unreachable) as error:
            if refusal := _why_refused(error):
                raise UserError(refusal) from error
            if str(error) != said:
                log.warning("waits for the API server: %s", error)
            said = str(error)
        await asyncio.sleep(RETRY_SECONDS)


def _why_refused(error: ApiError | Unreachable) -> str:
    """Why to try again is of no use; empty if it is."""
    if isinstance(error, Unreachable) or error.passes:
        return ""
    if error.status == 404:
        return f"the cluster has no kind {names.KIND}: run `dp-vllm crd | kubectl apply -f -`, or install the chart"
    if error.status == 403:
        return f"the operator lacks rights: {error.message}"
    return f"the API server refuses: {error}"


async def _end_when(lost: asyncio.Event) -> None:
    await lost.wait()
    log.error("lost the Lease: another operator may act now")
    os._exit(1)  # at once: whatever is under way would be done by two


async def _until_first(*coroutines: Awaitable[None]) -> None:
    """Run all until one ends, which is the watches' when told to; an error of one is everybody's."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
