"""What tests with the test bed's nodes rely on: its network, its GPUs, its faults."""

import json
import textwrap
from typing import Any

import pytest
from cluster import Cluster
from cluster.fixtures import Kubectl
from e2e.pods import MODEL, sim_pod

pytestmark = [pytest.mark.e2e, pytest.mark.own_cluster]


def test_nodes_are_ready_with_gpus(cluster: Cluster) -> None:
    nodes = json.loads(cluster.kubectl("get", "nodes", "--output=json"))["items"]
    assert [node["metadata"]["name"] for node in nodes] == ["node1", "node2"]
    for node in nodes:
        assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"


def test_pods_of_two_nodes_reach_each_other_by_a_name(kubectl: Kubectl, namespace: str) -> None:
    kubectl("create", "--filename=-", stdin=sim_pod("server", node="node1"))
    kubectl("create", "--filename=-", stdin=sim_pod("client", node="node2"))
    kubectl("expose", "pod/server", "--port=80", "--target-port=8000")
    ready(kubectl, "server", "client")
    for host in ("server", f"server.{namespace}.svc.cluster.local"):
        answer = kubectl("exec", "client", "--", "python3", "-I", "-c", get(f"http://{host}/v1/models"))
        assert [model["id"] for model in json.loads(answer)["data"]] == [MODEL]


def test_gpus_are_counted(kubectl: Kubectl) -> None:
    for name, gpus in {"one": 4, "two": 4, "three": 1}.items():
        kubectl("create", "--filename=-", stdin=sim_pod(name, node="node1", gpus=gpus))
        if name != "three":
            ready(kubectl, name)
    kubectl("wait", "pod/three", "--for=condition=PodScheduled=false", "--timeout=20s")
    (condition,) = status(kubectl, "pod/three")["conditions"]
    assert condition["reason"] == "Unschedulable"
    assert "Insufficient nvidia.com/gpu" in condition["message"]


def test_a_node_crashes_and_returns(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.crash("node2")
    try:
        kubectl("wait", "node/node2", "--for=condition=Ready=Unknown", "--timeout=60s")
    finally:
        cluster.start("node2")
    node = status(kubectl, "node/node2")
    assert {c["type"]: c["status"] for c in node["conditions"]}["Ready"] == "True"
    assert node["allocatable"]["nvidia.com/gpu"] == "8"
    kubectl("create", "--filename=-", stdin=sim_pod("after", node="node2"))
    ready(kubectl, "after")


def test_a_kubelet_hangs_and_returns(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.freeze("node2")
    try:
        kubectl("wait", "node/node2", "--for=condition=Ready=Unknown", "--timeout=60s")
    finally:
        cluster.thaw("node2")
    kubectl("wait", "node/node2", "--for=condition=Ready", "--timeout=60s")


def ready(kubectl: Kubectl, *pods: str) -> None:
    kubectl("wait", *(f"pod/{pod}" for pod in pods), "--for=condition=Ready", "--timeout=60s")


def status(kubectl: Kubectl, what: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kubectl("get", what, "--output=json"))["status"]
    return found


def get(url: str) -> str:
    """A program that prints a page; it tries for a moment, since kube-proxy may learn of an endpoint after the API."""
    return textwrap.dedent(f"""
        import time, urllib.request
        end = time.monotonic() + 5
        while True:
            try:
                print(urllib.request.urlopen({url!r}, timeout=2).read().decode(), end="")
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
    """)
