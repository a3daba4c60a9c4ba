"""Nodes without machines, before a real API server."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from cluster.fixtures import Kubectl
from cluster.given import AnyCluster

from kubelet import (
    CRASH_LOOP,
    EVICTED,
    FAILED,
    IMAGE_PULL,
    NEVER_READY,
    OOM_KILLED,
    READY,
    SUCCEEDED,
    Kubelet,
    Script,
)

pytestmark = pytest.mark.exhaustive  # the operator's tests use it all the time; these look at it alone

Object = dict[str, Any]

# What `kubectl get pod` of a real cluster shows in its column STATUS.
SHOWN = [
    (READY, "Running"),
    (NEVER_READY, "Running"),
    (SUCCEEDED, "Completed"),
    (FAILED, "Error"),
    (EVICTED, "Evicted"),
    (OOM_KILLED, "Running"),
    (CRASH_LOOP, "CrashLoopBackOff"),
    (IMAGE_PULL, "ImagePullBackOff"),
    (replace(CRASH_LOOP, container="first"), "Init:CrashLoopBackOff"),
    (replace(FAILED, container="first"), "Init:Error"),
]


def test_a_pod_is_scheduled_runs_and_ends(kubelet: Kubelet, kubectl: Kubectl) -> None:
    node = kubelet.add_node(gpus=8)
    create(kubectl, "x", gpus=8)
    create(kubectl, "y", gpus=1)
    wait(kubectl, "x", "condition=Ready")
    wait(kubectl, "y", "condition=PodScheduled=false")
    assert pod(kubectl, "x")["spec"]["nodeName"] == node
    kubectl("delete", "pod", "x", "--timeout=10s")
    wait(kubectl, "y", "condition=Ready")


@pytest.mark.parametrize(("script", "shown"), SHOWN)
def test_a_script_looks_as_it_does_on_a_real_node(
    kubelet: Kubelet, kubectl: Kubectl, script: Script, shown: str
) -> None:
    kubelet.add_node()
    kubelet.script("x", script)
    create(kubectl, "x", initContainers=[{"name": "first", "image": "x"}])
    wait(kubectl, "x", "jsonpath={.status.hostIP}")
    _, ready, status, restarts, *_ = kubectl("get", "pod", "x", "--no-headers").split()
    assert status == shown
    assert restarts == str(script.restarts)
    assert (ready == "1/1") == (script in (READY, OOM_KILLED))


def test_the_last_script_holds_for_pods_that_run_already(kubelet: Kubelet, kubectl: Kubectl) -> None:
    kubelet.add_node()
    kubelet.script("x*", NEVER_READY)
    create(kubectl, "x1")
    create(kubectl, "y1")
    wait(kubectl, "y1", "condition=Ready")
    wait(kubectl, "x1", "condition=Ready=false")
    kubelet.script("x1", READY)
    wait(kubectl, "x1", "condition=Ready")
    kubelet.script("x1", NEVER_READY)
    wait(kubectl, "x1", "condition=Ready=false")


def test_a_pod_takes_its_time(kubelet: Kubelet, kubectl: Kubectl) -> None:
    kubelet.add_node()
    kubelet.script("x", Script(start_seconds=1.0, stop_seconds=1.0))
    create(kubectl, "x")
    wait(kubectl, "x", "condition=Ready=false")
    wait(kubectl, "x", "condition=Ready")
    kubectl("delete", "pod", "x", "--wait=false")
    wait(kubectl, "x", "jsonpath={.metadata.deletionTimestamp}")
    wait(kubectl, "x", "delete")


@pytest.mark.timeout(120)  # a node is taken for lost after 20 s
def test_nothing_becomes_of_the_pods_of_a_lost_node(kubelet: Kubelet, kubectl: Kubectl) -> None:
    node = kubelet.add_node()
    create(kubectl, "x")
    wait(kubectl, "x", "condition=Ready")
    kubelet.lose(node)
    kubectl("wait", f"node/{node}", "--for=condition=Ready=Unknown", "--timeout=40s")
    wait(kubectl, "x", "condition=Ready=false")
    kubectl("delete", "pod", "x", "--wait=false")
    create(kubectl, "y")
    wait(kubectl, "y", "condition=PodScheduled=false")
    assert "deletionTimestamp" in pod(kubectl, "x")["metadata"]
    kubelet.restore(node)
    wait(kubectl, "x", "delete")
    wait(kubectl, "y", "condition=Ready")


@pytest.mark.own_cluster
def test_a_container_has_a_log(kubelet: Kubelet, kubectl: Kubectl) -> None:
    kubelet.add_node()
    kubelet.script("x", OOM_KILLED)
    kubelet.log("x", "one\ntwo\nthree\n", previous="before\n")
    create(kubectl, "x")
    wait(kubectl, "x", "condition=Ready")
    assert kubectl("logs", "x") == "one\ntwo\nthree\n"
    assert kubectl("logs", "x", "--tail=1") == "three\n"
    assert kubectl("logs", "x", "--limit-bytes=5") == "one\nt"
    assert kubectl("logs", "x", "--previous") == "before\n"


def test_a_job_is_done(kubelet: Kubelet, kubectl: Kubectl) -> None:
    kubelet.add_node()
    kubectl("create", "job", "x", "--image=x")
    kubectl("wait", "job/x", "--for=condition=Complete", "--timeout=20s")


def test_a_deployment_is_available(kubelet: Kubelet, kubectl: Kubectl) -> None:
    kubelet.add_node()
    kubectl("create", "deployment", "x", "--image=x", "--replicas=3")
    kubectl("wait", "deployment/x", "--for=condition=Available", "--timeout=20s")
    addresses = kubectl("get", "pods", "--output=jsonpath={.items[*].status.podIP}").split()
    assert len(set(addresses)) == 3


def test_nothing_is_left(control_plane: AnyCluster, namespace: str, kubectl: Kubectl) -> None:
    with Kubelet(control_plane.kubeconfig, namespace) as kubelet:
        node = kubelet.add_node()
        kubelet.script("x", Script(stop_seconds=math.inf))
        create(kubectl, "x")
        wait(kubectl, "x", "condition=Ready")
    assert kubectl("get", "pods", "--output=name") == ""
    assert kubectl("get", "node", node, "--ignore-not-found", "--output=name") == ""


def pod(kubectl: Kubectl, name: str) -> Object:
    found: Object = json.loads(kubectl("get", "pod", name, "--output=json"))
    return found


def wait(kubectl: Kubectl, name: str, what: str) -> None:
    kubectl("wait", f"pod/{name}", f"--for={what}", "--timeout=20s")


def create(kubectl: Kubectl, name: str, gpus: int = 0, **spec: object) -> None:
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    container = {"name": "engine", "image": "x", "resources": {"limits": limits}}
    all_of_it = {"containers": [container], **spec}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": all_of_it}
    kubectl("create", "--filename=-", stdin=json.dumps(manifest))
