"""Nodes as objects of the API: what a kubelet says of itself when it registers, and its heartbeat. Pure."""

from datetime import UTC, datetime
from typing import Any, Final

from cluster.namespaces import NODE_LABEL

Object = dict[str, Any]

LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
HEARTBEAT_SECONDS: Final = 5.0


def node(name: str, namespace: str, gpus: int, log_port: int) -> Object:
    """A node that is ready and has room for anything but GPUs."""
    room = {
        "cpu": "1000",
        "memory": "8Ti",
        "ephemeral-storage": "64Ti",
        "pods": "1000",
        "nvidia.com/gpu": str(gpus),
    }
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels | ({NODE_LABEL: namespace} if namespace else {})},
        "status": {
            "capacity": room,
            "allocatable": room,
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": log_port}},
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": _time()},
            ],
        },
    }


def lease(name: str) -> Object:
    """Says that the node is alive now."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 20, "renewTime": _time()},
    }


def _time() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
