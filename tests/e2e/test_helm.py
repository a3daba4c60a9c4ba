"""A release from its first day to its last, and models that serve through all of it."""

import json
import subprocess
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from cluster import Cluster
from cluster.fixtures import Kubectl
from docker.images import ROOT, tag
from e2e.released import CHART, NAMESPACE, RELEASE, values

from dp_vllm import crd

pytestmark = [pytest.mark.e2e, pytest.mark.own_cluster]

OTHER = "team"
"""Another release's name, and its namespace."""

MODEL = {
    "apiVersion": "dpvllm.io/v1alpha1",
    "kind": "DPModel",
    "metadata": {"name": "sim"},
    "spec": {"model": "demo/model", "replicas": 2, "engine": {"image": tag("sim"), "accelerator": "none"}},
}


def previous_chart(folder: Path) -> Path:
    """The chart as it was before it was last changed; as it is if that is not known."""
    path = CHART.relative_to(ROOT).as_posix()
    git = ["git", "-C", str(ROOT)]
    last = subprocess.run([*git, "log", "-1", "--format=%H", "--", path], capture_output=True, text=True).stdout.strip()
    packed = subprocess.run([*git, "archive", f"{last}^", path], capture_output=True)
    if packed.returncode:
        return CHART
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder / path


def uids(kubectl: Kubectl) -> set[str]:
    """Of the replicas that are to stay."""
    selector = "dpvllm.io/model=sim,app.kubernetes.io/component=replica"
    found = json.loads(kubectl("get", "pods", f"--selector={selector}", "--output=json"))["items"]
    return {pod["metadata"]["uid"] for pod in found if "deletionTimestamp" not in pod["metadata"]}


@pytest.fixture
def clean(cluster: Cluster) -> Iterator[None]:
    """Nothing is left to those who come after: what the chart's README says."""
    yield
    for release, namespace in ((RELEASE, NAMESPACE), (OTHER, OTHER)):
        cluster.run("helm", "uninstall", release, f"--namespace={namespace}", "--ignore-not-found", "--wait")
    cluster.kubectl("delete", "crd", crd.NAME)
    cluster.kubectl("delete", "clusterrole", "--selector=app.kubernetes.io/name=dp-vllm")


def test_models_serve_through_all_that_becomes_of_a_release(
    cluster: Cluster, kubectl: Kubectl, tmp_path: Path, clean: None
) -> None:
    def helm(*words: str, namespace: str = NAMESPACE) -> str:
        waits = ("--wait", "--timeout=120s") if words[0] != "test" else ("--timeout=180s",)
        return cluster.run("helm", *words, f"--namespace={namespace}", *waits)

    def ready(replicas: int) -> None:
        kubectl("wait", "dpm/sim", "--for=condition=Ready", "--timeout=120s")
        kubectl("wait", "dpm/sim", f"--for=jsonpath={{.status.readyReplicas}}={replicas}", "--timeout=120s")

    helm("install", RELEASE, str(previous_chart(tmp_path)), "--create-namespace", *values())
    kubectl("apply", "--filename=-", stdin=json.dumps(MODEL))
    ready(2)
    first = uids(kubectl)

    kubectl("scale", "dpm/sim", "--replicas=3")
    helm("upgrade", RELEASE, str(CHART), *values())
    ready(3)
    assert first < uids(kubectl), "an upgrade restarts no replica, and leaves the number to kubectl"
    scaled = uids(kubectl)
    assert "streamed in" in helm("test", RELEASE, "--logs")

    helm("rollback", RELEASE, "1")
    ready(3)
    helm("upgrade", RELEASE, str(CHART), *values())
    ready(3)
    assert uids(kubectl) == scaled

    helm("uninstall", RELEASE)
    assert uids(kubectl) == scaled
    helm("install", OTHER, str(CHART), "--create-namespace", "--take-ownership", *values(), namespace=OTHER)
    kubectl("scale", "dpm/sim", "--replicas=1")
    ready(1)
    assert uids(kubectl) < scaled

    kubectl("delete", "dpm", "sim")
    helm("uninstall", OTHER, namespace=OTHER)
    kinds = "pods,services,deployments,configmaps,networkpolicies,poddisruptionbudgets,rolebindings"
    kubectl("wait", kinds, "--selector=dpvllm.io/model=sim", "--for=delete", "--timeout=60s")
    left = cluster.kubectl("get", "clusterroles,clusterrolebindings,crds", "--output=name")
    assert {one for one in left.split() if "dp-vllm" in one or "dpvllm" in one} == {
        "customresourcedefinition.apiextensions.k8s.io/dpmodels.dpvllm.io",
        f"clusterrole.rbac.authorization.k8s.io/{NAMESPACE}:{RELEASE}-gateway",
        f"clusterrole.rbac.authorization.k8s.io/{OTHER}:{OTHER}-dp-vllm-gateway",
    }, "what the chart's README says"
