"""What tests before an API server rely on."""

import json

import pytest
from programs import wait_until

from cluster import ClusterError
from cluster.audit import Audit, Call
from cluster.fixtures import Kubectl
from cluster.given import AnyCluster
from dp_vllm.kubernetes_api import KubernetesApi

CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}


def test_pods_of_a_namespace_without_nodes_wait(kubectl: Kubectl) -> None:
    kubectl("run", "x", "--image=x")
    kubectl("wait", "pod/x", "--for=condition=PodScheduled=false", "--timeout=10s")


async def test_every_write_is_in_the_audit_log(api: KubernetesApi, namespace: str, audit: Audit) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    await api.request("POST", path, body=CONFIG_MAP)
    await api.request("DELETE", f"{path}/x")

    def writes() -> list[Call]:
        return [call for call in audit.calls() if call.namespace == namespace and call.name == "x" and call.writes]

    wait_until(lambda: len(writes()) == 2, "both are in the log")
    made, removed = writes()
    assert (made.user, made.verb, made.resource, made.subresource, made.code) == (
        "admin",
        "create",
        "configmaps",
        "",
        201,
    )
    assert (removed.verb, removed.code) == ("delete", 200)
    assert made.at < removed.at


async def test_a_refusal_is_in_the_audit_log(control_plane: AnyCluster, namespace: str, audit: Audit) -> None:
    kubeconfig = control_plane.login("nobody", groups=("strangers",))
    with pytest.raises(ClusterError, match='User "nobody" cannot list resource "pods"'):
        control_plane.kubectl("get", "pods", f"--namespace={namespace}", f"--kubeconfig={kubeconfig}")
    wait_until(lambda: any((call.user, call.code) == ("nobody", 403) for call in audit.calls()), "it is in the log")


@pytest.mark.own_cluster
def test_only_who_may_update_an_owner_may_block_its_deletion(control_plane: AnyCluster, kubectl: Kubectl) -> None:
    kubectl("create", "configmap", "owner")
    uid = json.loads(kubectl("get", "configmap", "owner", "--output=json"))["metadata"]["uid"]
    kubectl("create", "role", "maker", "--verb=create,get", "--resource=configmaps")
    kubectl("create", "rolebinding", "maker", "--role=maker", "--user=maker")
    kubeconfig = control_plane.login("maker")
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid, "blockOwnerDeletion": True}
    owned = json.dumps(CONFIG_MAP | {"metadata": {"name": "x", "ownerReferences": [owner]}})
    with pytest.raises(ClusterError, match="cannot set blockOwnerDeletion"):
        kubectl("create", "--filename=-", f"--kubeconfig={kubeconfig}", stdin=owned)
