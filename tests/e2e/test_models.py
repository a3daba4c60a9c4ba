"""A DPModel on real nodes, from `kubectl apply` to its deletion: clients notice nothing of what happens between."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from cluster import Cluster
from cluster.fixtures import Kubectl
from cluster.reach import reached
from docker.images import tag
from e2e.pods import MODEL
from e2e.released import NAMESPACE, RELEASE, upgrade
from end_to_end.load import Load, load
from programs import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.own_cluster]

NAME = "sim"
CLIENTS = 12
READY_SECONDS = 120.0


def manifest(**spec: Any) -> str:
    """A DPModel of simulated engines with two GPUs a replica."""
    engine = {"image": tag("sim"), "args": [], **spec.pop("engine", {})}
    rollout = {"drainTimeoutSeconds": 30, "surgeTimeoutSeconds": 5, **spec.pop("rollout", {})}
    body = {
        "apiVersion": "dpvllm.io/v1alpha1",
        "kind": "DPModel",
        "metadata": {"name": NAME},
        "spec": {"model": MODEL, "replicas": 2, "tensorParallelSize": 2, "engine": engine, "rollout": rollout, **spec},
    }
    return json.dumps(body)


def pods(kubectl: Kubectl) -> dict[str, dict[str, Any]]:
    """The model's replica pods by name, those that end too."""
    selector = f"dpvllm.io/model={NAME},app.kubernetes.io/component=replica"
    found = json.loads(kubectl("get", "pods", f"--selector={selector}", "--output=json"))["items"]
    return {pod["metadata"]["name"]: pod for pod in found}


def live(kubectl: Kubectl) -> dict[str, dict[str, Any]]:
    return {name: pod for name, pod in pods(kubectl).items() if "deletionTimestamp" not in pod["metadata"]}


def status(kubectl: Kubectl) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kubectl("get", f"dpm/{NAME}", "--output=json"))["status"]
    return found


def settled(kubectl: Kubectl, replicas: int, *, seconds: float = READY_SECONDS) -> None:
    """Wait until so many replicas serve, all of one revision, and nothing goes on."""

    def is_settled() -> bool:
        model = json.loads(kubectl("get", f"dpm/{NAME}", "--output=json"))
        now, generation = model.get("status", {}), model["metadata"]["generation"]
        conditions = {one["type"]: one for one in now.get("conditions", ())}
        return (
            now.get("observedGeneration") == generation
            and (now["replicas"], now["readyReplicas"], now["updatedReplicas"]) == (replicas,) * 3
            and conditions["Ready"]["status"] == "True"
            and conditions["Progressing"]["reason"] == "Complete"
            and len(pods(kubectl)) == replicas
        )

    try:
        wait_until(is_settled, f"{replicas} replicas serve", seconds)
    except AssertionError:
        print(kubectl("get", "dpm,pods", "--output=wide"), kubectl("describe", "dpm"))
        raise


def told_by(kubectl: Kubectl) -> list[str]:
    """How many others each of the model's gateways is told by."""
    selector = f"dpvllm.io/model={NAME},app.kubernetes.io/component=gateway"
    names = kubectl("get", "pods", f"--selector={selector}", "--output=name").split()
    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9000/metrics').read().decode())"
    scrapes = [kubectl("exec", name, "--", "python", "-c", ask) for name in names]
    lines = [line for scrape in scrapes for line in scrape.splitlines()]
    return [line.rpartition(" ")[2] for line in lines if line.startswith("dp_vllm_gateway_peers ")]


@contextlib.asynccontextmanager
async def loaded(cluster: Cluster, namespace: str) -> AsyncIterator[Load]:
    """Clients talk to the Service all the time; not one request may fail."""
    with reached(cluster, namespace, f"service/{NAME}", 80, image=tag("sim")) as url:
        async with load(url, CLIENTS) as clients:
            await clients.until(CLIENTS)
            yield clients
            await clients.until(2 * CLIENTS)
    broken = [chat for chat in clients.chats if not chat.is_whole]
    assert not broken, f"{len(broken)} of {len(clients.chats)} failed, the first: {broken[0]}"


@pytest.fixture
def model(operator: None, kubectl: Kubectl) -> Iterator[None]:
    """Two replicas serve."""
    kubectl("apply", "--filename=-", stdin=manifest())
    kubectl("wait", f"dpm/{NAME}", "--for=condition=Ready", "--timeout=120s")
    settled(kubectl, 2)
    yield
    kubectl("delete", "dpm", NAME)


async def test_it_streams_scales_and_rolls_with_no_failed_request(
    cluster: Cluster, namespace: str, kubectl: Kubectl, model: None
) -> None:
    with (
        reached(cluster, namespace, f"service/{NAME}", 80, image=tag("sim")) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=30) as client,
    ):
        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello"}], max_tokens=8, stream=True
        )
        assert "".join(part.choices[0].delta.content or "" for part in stream)
    wait_until(lambda: told_by(kubectl) == ["1.0", "1.0"], "the two gateways tell each other", 20)
    limits = [pod["spec"]["containers"][0]["resources"]["limits"] for pod in pods(kubectl).values()]
    assert [limit["nvidia.com/gpu"] for limit in limits] == ["2", "2"]

    def scale(replicas: int) -> None:
        kubectl("scale", f"dpm/{NAME}", f"--replicas={replicas}")
        settled(kubectl, replicas)

    def roll() -> None:
        before = set(pods(kubectl))
        kubectl("apply", "--filename=-", stdin=manifest(engine={"args": ["--max-num-seqs", "100"]}))
        settled(kubectl, 2)
        assert not before & set(pods(kubectl))

    async with loaded(cluster, namespace) as clients:
        for replicas in (4, 1, 2):
            await asyncio.to_thread(scale, replicas)
            await clients.until(2 * CLIENTS)
        await asyncio.to_thread(roll)
    assert len({chat.replica for chat in clients.chats}) >= 6
    assert "to replica " in kubectl("exec", f"deploy/{NAME}-gateway", "--", "dp-vllm", "explain", "--last", "1")


async def test_a_full_cluster_rolls_by_draining(
    cluster: Cluster, namespace: str, kubectl: Kubectl, operator: None
) -> None:
    """16 GPUs, 4 replicas with 4 each: there is no place for one more."""

    def apply(**engine: Any) -> None:
        kubectl("apply", "--filename=-", stdin=manifest(replicas=4, tensorParallelSize=4, engine=engine))
        settled(kubectl, 4, seconds=240)

    await asyncio.to_thread(apply)
    async with loaded(cluster, namespace):
        await asyncio.to_thread(apply, args=["--max-num-seqs", "100"])
    kubectl("delete", "dpm", NAME)


async def test_a_node_is_drained_with_no_failed_request(
    cluster: Cluster, namespace: str, kubectl: Kubectl, model: None
) -> None:
    kubectl("scale", f"dpm/{NAME}", "--replicas=4")
    settled(kubectl, 4)
    assert {pod["spec"]["nodeName"] for pod in pods(kubectl).values()} == {"node1", "node2"}

    def drain() -> None:
        cluster.kubectl("drain", "node2", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s")
        settled(kubectl, 4)

    try:
        async with loaded(cluster, namespace):
            await asyncio.to_thread(drain)
    finally:
        cluster.kubectl("uncordon", "node2")
    assert {pod["spec"]["nodeName"] for pod in pods(kubectl).values()} == {"node1"}


async def test_an_operator_is_upgraded_and_rolls_the_gateways_with_no_failed_request(
    cluster: Cluster, namespace: str, kubectl: Kubectl, model: None
) -> None:
    before = {name: pod["metadata"]["uid"] for name, pod in pods(kubectl).items()}
    another = f"{tag('gateway')}-next"
    for node in cluster.nodes:
        names = (f"docker.io/{tag('gateway')}", f"docker.io/{another}")
        cluster.run("ctr", "--namespace=k8s.io", "images", "tag", "--force", *names, node=node.name)
    image = ("get", f"deploy/{NAME}-gateway", "--output=jsonpath={.spec.template.spec.containers[0].image}")

    def change() -> None:
        upgrade(cluster, defaults__gatewayImage=another, defaults__engineImage="example.org/another:1")
        wait_until(lambda: kubectl(*image) == another, "the gateway's new image", 60)
        kubectl("rollout", "status", f"deploy/{NAME}-gateway", "--timeout=120s")
        settled(kubectl, 2)

    try:
        async with loaded(cluster, namespace):
            await asyncio.to_thread(change)
        assert {name: pod["metadata"]["uid"] for name, pod in pods(kubectl).items()} == before
    finally:
        upgrade(cluster)


def test_an_idle_replica_and_one_that_loads_are_gone_in_15_seconds(kubectl: Kubectl, model: None) -> None:
    idle = next(iter(pods(kubectl)))
    assert _gone_in(kubectl, idle) < 15
    settled(kubectl, 2)
    kubectl("apply", "--filename=-", stdin=manifest(engine={"args": ["--sim-load-seconds", "300"]}))
    wait_until(lambda: any(_runs(pod) for name, pod in live(kubectl).items() if "-2-" in name), "a replica loads", 60)
    loading = next(name for name, pod in live(kubectl).items() if "-2-" in name and _runs(pod))
    assert _gone_in(kubectl, loading) < 15
    assert kubectl("get", f"dpm/{NAME}", "--output=jsonpath={.status.readyReplicas}") == "2"


def test_a_frozen_engine_is_restarted_in_its_pod(
    cluster: Cluster, namespace: str, kubectl: Kubectl, operator: None
) -> None:
    hung = {"args": ["--sim-fault", '{"kind": "hung", "count": 1}'], "hangTimeoutSeconds": 30}
    kubectl("apply", "--filename=-", stdin=manifest(replicas=1, engine=hung))
    try:
        kubectl("wait", f"dpm/{NAME}", "--for=condition=Ready", "--timeout=120s")
        (name,) = pods(kubectl)
        began = time.monotonic()
        with (
            reached(cluster, namespace, f"service/{NAME}", 80, image=tag("sim")) as url,
            openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=200, max_retries=0) as client,
        ):
            with contextlib.suppress(openai.APIError):
                client.completions.create(model=MODEL, prompt="Hello", max_tokens=8)
            restarted = time.monotonic() - began
        assert restarted < 30 + 60
        wait_until(lambda: _restarts(pods(kubectl)[name]) == 1, "the kubelet restarts the engine in its pod", 60)
    finally:
        kubectl("delete", "dpm", NAME)


def test_a_nodes_crash_moves_its_replicas_and_its_return_leaves_no_duplicate(
    cluster: Cluster, kubectl: Kubectl, model: None
) -> None:
    kubectl("scale", f"dpm/{NAME}", "--replicas=4")
    settled(kubectl, 4)
    cluster.crash("node2")
    try:
        wait_until(lambda: _count_on(kubectl, "node1") == 4 and status(kubectl)["readyReplicas"] == 4, "a move", 180)
    finally:
        cluster.start("node2")
    settled(kubectl, 4)


def test_nothing_is_left_of_a_model_that_was_deleted(kubectl: Kubectl, model: None) -> None:
    began = time.monotonic()
    kubectl("delete", "dpm", NAME)
    assert time.monotonic() - began < 5
    kinds = "pods,deployments,services,configmaps,networkpolicies,poddisruptionbudgets,rolebindings,controllerrevisions"
    listing = ("get", kinds, f"--selector=dpvllm.io/model={NAME}", "--output=name")
    wait_until(lambda: not kubectl(*listing), "everything is gone", 60)
    kubectl("apply", "--filename=-", stdin=manifest(replicas=0))
    kubectl("wait", f"dpm/{NAME}", "--for=condition=Ready", "--timeout=60s")


def test_helm_test_gets_a_streamed_answer(cluster: Cluster, operator: None) -> None:
    said = cluster.run("helm", "test", RELEASE, f"--namespace={NAMESPACE}", "--logs", "--timeout=180s")
    assert "streamed in" in said


def test_the_operator_asks_for_nothing_that_it_may_not_have(cluster: Cluster, model: None) -> None:
    said = cluster.kubectl("logs", "deploy/dp-vllm-operator", f"--namespace={NAMESPACE}")
    assert "orbidden" not in said


def _gone_in(kubectl: Kubectl, name: str) -> float:
    """Seconds until this very pod is gone. Its name may be given to another at once."""
    uid = pods(kubectl)[name]["metadata"]["uid"]
    began = time.monotonic()
    kubectl("delete", "pod", name, "--wait=false")
    wait_until(lambda: uid not in {pod["metadata"]["uid"] for pod in pods(kubectl).values()}, f"{name} is gone", 60)
    return time.monotonic() - began


def _count_on(kubectl: Kubectl, node: str) -> int:
    return sum(pod["spec"].get("nodeName") == node for pod in live(kubectl).values())


def _restarts(pod: dict[str, Any]) -> int:
    return sum(int(container["restartCount"]) for container in pod["status"]["containerStatuses"])


def _runs(pod: dict[str, Any]) -> bool:
    return any("running" in container["state"] for container in pod["status"].get("containerStatuses", ()))
