"""What the operator counts, and what Prometheus is to know of each model.

kube-state-metrics does not know the kind DPModel: alerts are written on the conditions and replicas here. A model's
series are made from its status when they are asked for, and are gone with the model. It decides nothing.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from dp_vllm_operator.health import Health
from dp_vllm_operator.queue import Key, Keys

RECONCILE_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds."""

STATUSES: Final = ("True", "False", "Unknown")


class Metrics:
    """The one owner of what the operator counts."""

    def __init__(self, queue: Keys, health: Health) -> None:
        self.registry = CollectorRegistry()
        self.models = Models()
        self._reconciles = Counter(
            "dp_vllm_operator_reconciles", "Reconciles that ended", ["result"], registry=self.registry
        )
        for result in (True, False):
            self._reconciles.labels(_result(result))
        self._seconds = Histogram(
            "dp_vllm_operator_reconcile_duration_seconds",
            "How long a reconcile took",
            buckets=RECONCILE_BOUNDS,
            registry=self.registry,
        )
        self._writes = Counter(
            "dp_vllm_operator_writes", "Writes to the API server", ["verb", "resource"], registry=self.registry
        )
        self._leads = Gauge("dp_vllm_operator_leader", "Whether it holds the Lease and acts", registry=self.registry)
        Info("dp_vllm_operator_build", "Its version", registry=self.registry).info({"version": version("dp-vllm")})
        ProcessCollector(registry=self.registry)
        self.registry.register(_Present(queue, health))
        self.registry.register(self.models)

    def reconciled(self, succeeded: bool, seconds: float) -> None:
        """A reconcile has ended."""
        self._reconciles.labels(_result(succeeded)).inc()
        self._seconds.observe(seconds)

    def wrote(self, verb: str, resource: str) -> None:
        """The API server has carried out a write: `create`, `pods`."""
        self._writes.labels(verb, resource).inc()

    def leads(self, leads: bool) -> None:
        """Whether this operator acts."""
        self._leads.set(leads)


@dataclass(frozen=True, slots=True)
class _Shown:
    desired: int
    ready: int
    updated: int
    conditions: Mapping[str, str]


class Models(Collector):
    """What was last seen of each model."""

    def __init__(self) -> None:
        self._shown: dict[Key, _Shown] = {}

    def show(self, key: Key, desired: int, status: Mapping[str, Any]) -> None:
        """A model asks for so many replicas, and has this status."""
        self._shown[key] = _Shown(
            desired=desired,
            ready=status.get("readyReplicas", 0),
            updated=status.get("updatedReplicas", 0),
            conditions={each["type"]: each["status"] for each in status.get("conditions", ())},
        )

    def forget(self, key: Key) -> None:
        """The model is gone, or another operator's."""
        self._shown.pop(key, None)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Everything, as it is now."""
        yield self._replicas("desired", "that are asked for", lambda shown: shown.desired)
        yield self._replicas("ready", "that are ready", lambda shown: shown.ready)
        yield self._replicas("updated", "of the newest revision", lambda shown: shown.updated)
        labels = ("namespace", "name", "condition", "status")
        family = GaugeMetricFamily("dp_vllm_model_condition", "1 for the status that a condition has", labels=labels)
        for key, shown in self._shown.items():
            for condition, present in shown.conditions.items():
                for status in STATUSES:
                    family.add_metric((*key, condition, status), status == present)
        yield family

    def _replicas(self, which: str, words: str, count: Callable[[_Shown], int]) -> GaugeMetricFamily:
        name, labels = f"dp_vllm_model_{which}_replicas", ("namespace", "name")
        family = GaugeMetricFamily(name, f"Replicas {words}", labels=labels)
        for key, shown in self._shown.items():
            family.add_metric(key, count(shown))
        return family


class _Present(Collector):
    """What the queue and the health know themselves."""

    def __init__(self, queue: Keys, health: Health) -> None:
        self._queue = queue
        self._health = health

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        now = asyncio.get_running_loop().time()
        yield GaugeMetricFamily("dp_vllm_operator_queue_depth", "Models that wait to be looked at", self._queue.depth)
        yield GaugeMetricFamily(
            "dp_vllm_operator_longest_running_seconds",
            "How long the slowest reconcile at work has taken so far",
            self._queue.oldest_working(now),
        )
        yield CounterMetricFamily(
            "dp_vllm_operator_events_missed",
            "Changes that a resync found and no watch had told of a minute later",
            self._health.missed(now),
        )

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing beforehand: the event loop may not run yet."""
        return iter(())


def _result(succeeded: bool) -> str:
    return "ok" if succeeded else "failed"
