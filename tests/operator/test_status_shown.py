"""A status on a real API server: what it keeps of it, and what kubectl and autoscalers see."""

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from cluster.errors import ClusterError
from cluster.fixtures import Kubectl
from cluster.given import AnyCluster
from dpmodels import dpmodel
from fleets import NOW
from observations import observed, trouble

from dp_vllm.kubernetes_api import KubernetesApi
from dp_vllm_operator.cluster import MODEL, Cluster
from dp_vllm_operator.model import Model
from dp_vllm_operator.observed import Observed
from dp_vllm_operator.plan import RolloutState
from dp_vllm_operator.progress import Progress
from dp_vllm_operator.status import same, status, write_in_seconds

CRASHING = observed(
    "2:ready 2:starting", RolloutState.SCALING, troubles={"m-2-1": trouble("CrashLoopBackOff", "exit code 2: no --x")}
)


@dataclass(frozen=True, slots=True)
class Served:
    cluster: Cluster
    namespace: str

    async def model(self) -> Model:
        body = await self.cluster.model(self.namespace, "m")
        assert body is not None
        return replace(Model.of(body), annotations={})

    async def write(self, found: Observed) -> dict[str, Any]:
        asked = await self.model()
        written = status(asked, found, NOW)
        await self.cluster.write_status(self.namespace, "m", asked.uid, written)
        return written


@pytest.fixture
async def served(api: KubernetesApi, dpmodels: AnyCluster, namespace: str) -> Served:
    """A DPModel that nobody looks after but the test."""
    cluster = Cluster(api)
    await cluster.create(MODEL, namespace, dpmodel("m", replicas=2))
    return Served(cluster, namespace)


@pytest.mark.parametrize(
    "found",
    [
        observed("2:ready*2", ready_revision=1),
        observed("1:ready 2:ending 2:starting", RolloutState.ROLLING, progress={"m-2-2": Progress("Loading", "x", 40)}),
        observed("", RolloutState.FIRST_START, revision=None, gateway=None),
    ],
    ids=["ready", "rolling", "nothing"],
)
async def test_what_is_written_is_what_is_read(served: Served, found: Observed) -> None:
    """Else it would be written for ever. What is left out is removed."""
    await served.write(CRASHING)
    written = await served.write(found)
    read = (await served.model()).status
    assert same(read, written)
    assert write_in_seconds(read, status(await served.model(), found, NOW), NOW, 0.0) is None


async def test_kubectl_alone_tells_what_is_wrong(served: Served, kubectl: Kubectl) -> None:
    await served.write(CRASHING)
    assert "CrashLoopBackOff" in kubectl("get", "dpm", "m")
    assert "m-2-1: exit code 2: no --x" in kubectl("get", "dpm", "m", "--output=wide")


async def test_kubectl_waits_for_conditions(served: Served, kubectl: Kubectl) -> None:
    await served.write(CRASHING)
    kubectl("wait", "--for=condition=Available", "dpm/m", "--timeout=0")
    with pytest.raises(ClusterError):
        kubectl("wait", "--for=condition=Ready", "dpm/m", "--timeout=0")
    await served.write(observed("2:ready*2"))
    kubectl("wait", "--for=condition=Ready", "dpm/m", "--timeout=0")
    kubectl("patch", "dpm", "m", "--type=merge", "--patch", '{"spec": {"tensorParallelSize": 2}}')
    with pytest.raises(ClusterError):
        kubectl("wait", "--for=condition=Ready", "dpm/m", "--timeout=0")


async def test_autoscalers_are_told_how_many_there_are_and_which(served: Served, kubectl: Kubectl) -> None:
    written = await served.write(CRASHING)
    scale = json.loads(kubectl("get", "--raw", MODEL.path(served.namespace, "m", "scale")))
    assert scale["status"] == {"replicas": 2, "selector": written["selector"]}
