"""What a machine must have for a cluster."""

import os
from typing import Final

from . import binaries
from .machine import CGROUPS, hierarchies

_PLANE_PROGRAMS: Final = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"),
    *("kubectl", "openssl"),
)
_NODE_PROGRAMS: Final = ("coredns", "kubelet", "kube-proxy", "pause", "containerd", "ctr", "runc", "ip", "iptables")


def why_none(*, nodes: bool) -> str:
    """Why this machine cannot have a cluster, with nodes or without; empty if it can."""
    return (nodes and why_no_nodes()) or binaries.lacking([*_PLANE_PROGRAMS, *(_NODE_PROGRAMS if nodes else ())])


def why_no_nodes() -> str:
    """Why this machine cannot have nodes, whatever programs are there; empty if it can."""
    if os.geteuid() != 0:
        return "nodes need root: they are made of namespaces, mounts and cgroups"
    if not hierarchies():
        return f"nodes need the cgroup v1 hierarchies below {CGROUPS} (memory, cpu, ...); none found"
    return ""
