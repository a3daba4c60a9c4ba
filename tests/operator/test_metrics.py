"""What Prometheus is told of the operator and of each model."""

import asyncio
import random
from typing import Any

import pytest
from prometheus_client import generate_latest
from watched import Scrape

from dp_vllm.kubernetes_api import ApiError, KubernetesApi, Unreachable
from dp_vllm_operator.health import Health
from dp_vllm_operator.metrics import Metrics
from dp_vllm_operator.queue import Key, Keys
from dp_vllm_operator.reporting import ReportingApi, resource

A = Key("default", "a")

SERVING: dict[str, Any] = {
    "replicas": 4,
    "readyReplicas": 3,
    "updatedReplicas": 2,
    "conditions": [
        {"type": "Ready", "status": "False", "reason": "ReplicasStarting", "message": "3 of 4"},
        {"type": "Available", "status": "True", "reason": "Serving", "message": ""},
        {"type": "Degraded", "status": "Unknown", "reason": "x", "message": ""},
    ],
}


class Told:
    """Metrics, and what a scrape of them says."""

    def __init__(self) -> None:
        self.keys = Keys(rng=random.Random(1))
        self.health = Health(self.keys)
        self.metrics = Metrics(self.keys, self.health)

    def scrape(self) -> Scrape:
        return Scrape(generate_latest(self.metrics.registry))


@pytest.fixture
def told() -> Told:
    return Told()


async def test_what_the_operator_did_is_counted(told: Told) -> None:
    before = told.scrape()
    assert before.labels("dp_vllm_operator_reconciles_total", "result") == {"ok", "failed"}
    for succeeded, seconds in ((True, 0.02), (True, 3.0), (False, 60.0)):
        told.metrics.reconciled(succeeded, seconds)
    told.metrics.wrote("create", "pods")
    told.metrics.leads(True)
    value = told.scrape().since(before)
    assert value("dp_vllm_operator_reconciles_total", result="ok") == 2
    assert value("dp_vllm_operator_reconciles_total", result="failed") == 1
    assert value("dp_vllm_operator_reconcile_duration_seconds_count") == 3
    assert value("dp_vllm_operator_reconcile_duration_seconds_bucket", le="5.0") == 2
    assert value("dp_vllm_operator_writes_total", verb="create", resource="pods") == 1
    assert value("dp_vllm_operator_leader") == 1


async def test_what_waits_and_what_was_missed_is_told(told: Told) -> None:
    now = asyncio.get_running_loop().time()
    told.health.listed({"uid-1": "1", "uid-2": "2"}, began=now - 90, now=now - 90)
    for name in ("a", "b", "c"):
        told.keys.add(Key("default", name))
    async with told.keys.next():
        await asyncio.sleep(0)
        scrape = told.scrape()
    assert scrape.value("dp_vllm_operator_queue_depth") == 2
    assert 0 < scrape.value("dp_vllm_operator_longest_running_seconds") < 20
    assert scrape.value("dp_vllm_operator_events_missed_total") == 2
    assert scrape.value("process_resident_memory_bytes") > 1e7


async def test_each_model_has_its_replicas_and_conditions(told: Told) -> None:
    told.metrics.models.show(A, 4, SERVING)
    told.metrics.models.show(Key("other", "a"), 0, {})
    scrape = told.scrape()
    ours = {"namespace": "default", "name": "a"}
    assert scrape.value("dp_vllm_model_desired_replicas", **ours) == 4
    assert scrape.value("dp_vllm_model_ready_replicas", **ours) == 3
    assert scrape.value("dp_vllm_model_updated_replicas", **ours) == 2
    assert scrape.labels("dp_vllm_model_desired_replicas", "namespace") == {"default", "other"}
    for condition, status in (("Ready", "False"), ("Available", "True"), ("Degraded", "Unknown")):
        series = {each: scrape.value("dp_vllm_model_condition", condition=condition, status=each, **ours)
                  for each in ("True", "False", "Unknown")}  # fmt: skip
        assert series == {each: float(each == status) for each in series}
    assert scrape.labels("dp_vllm_model_condition", "namespace") == {"default"}


async def test_the_series_of_a_model_are_gone_with_it(told: Told) -> None:
    told.metrics.models.show(A, 4, SERVING)
    told.metrics.models.show(A, 2, {**SERVING, "conditions": SERVING["conditions"][:1]})
    assert told.scrape().labels("dp_vllm_model_condition", "condition") == {"Ready"}
    told.metrics.models.forget(A)
    told.metrics.models.forget(A)
    scrape = told.scrape()
    assert not scrape.labels("dp_vllm_model_desired_replicas", "name")
    assert not scrape.labels("dp_vllm_model_condition", "name")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/v1/namespaces/x/pods", "pods"),
        ("/api/v1/namespaces/x/pods/m-1-0", "pods"),
        ("/api/v1/namespaces/x/pods/m-1-0/eviction", "pods/eviction"),
        ("/apis/dpvllm.io/v1alpha1/namespaces/x/dpmodels/m/status", "dpmodels/status"),
        ("/apis/apps/v1/namespaces/x/deployments/m-gateway", "deployments"),
        ("/api/v1/nodes/node1", "nodes"),
        ("/api/v1/nodes", "nodes"),
        ("/api/v1/namespaces/x", "namespaces"),
    ],
)
def test_a_path_tells_the_resource(path: str, expected: str) -> None:
    assert resource(path) == expected


async def test_an_answer_of_the_api_server_makes_it_ready(told: Told, api: KubernetesApi, namespace: str) -> None:
    reporting = ReportingApi(api, told.health, told.metrics)
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    now = asyncio.get_running_loop().time
    await reporting.request("GET", path)
    assert not told.health.why_unready(now())


async def test_each_request_is_told_of(told: Told, api: KubernetesApi, namespace: str) -> None:
    reporting = ReportingApi(api, told.health, told.metrics)
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    now = asyncio.get_running_loop().time
    assert told.health.why_unready(now())
    with pytest.raises(ApiError, match="404"):
        await reporting.request("GET", f"{path}/x")
    assert not told.health.why_unready(now()), "a refusal is an answer"
    body = {"metadata": {"name": "x"}}
    await reporting.request("POST", path, query={"dryRun": "All"}, body=body)
    await reporting.request("POST", path, body=body)
    with pytest.raises(ApiError, match="409"):
        await reporting.request("POST", path, body=body)
    await reporting.request("DELETE", f"{path}/x")
    scrape = told.scrape()
    assert scrape.value("dp_vllm_operator_writes_total", verb="create", resource="configmaps") == 1
    assert scrape.value("dp_vllm_operator_writes_total", verb="delete", resource="configmaps") == 1
    with pytest.raises(Unreachable):
        await reporting.request("GET", path, seconds=0.0001)
    assert f"GET {path}" in told.health.why_unready(now() + 100)
