"""Pods of the project's images, as a person would write them who has no operator."""

import json
from typing import Any, Final

from docker.images import tag

Object = dict[str, Any]

MODEL: Final = "demo/model"
_RESTRICTED: Final = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
}


def sim_pod(name: str, *, node: str = "", gpus: int = 1) -> str:
    """A pod with a simulated engine and a label `app` with its name."""
    probe = {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1}
    container = {
        "name": "engine",
        "image": tag("sim"),
        "imagePullPolicy": "IfNotPresent",
        "args": [MODEL],
        "readinessProbe": probe,
        "resources": {"limits": {"nvidia.com/gpu": str(gpus)}},
        "securityContext": _RESTRICTED,
    }
    spec: Object = {"containers": [container], "terminationGracePeriodSeconds": 0}
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    metadata = {"name": name, "labels": {"app": name}}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
