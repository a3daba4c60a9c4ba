"""Pods of replicas and gateways as an API server tells of them, and addresses at which this machine can play them."""

import itertools
import os
from collections.abc import Mapping
from typing import Any, Final

from dp_vllm import names

PORT: Final = names.ENGINE_PORT

_numbers = itertools.count(1)


def address() -> str:
    """A loopback address that nobody else uses: a pod's, with the engines' port free. Only Linux has so many."""
    pid = os.getpid()
    return f"127.{1 + (pid >> 8) % 254}.{pid % 256}.{next(_numbers) % 254 + 1}"


def labels(model: str) -> dict[str, str]:
    """What a replica of the model is found by."""
    return {names.MODEL_LABEL: model, names.COMPONENT_LABEL: names.REPLICA}


def running(
    ip: str, *, ready: bool = True, started: bool = True, restarts: int = 0, phase: str = "Running"
) -> dict[str, Any]:
    """The status of a pod whose engine runs."""
    said = "True" if ready else "False"
    return {
        "phase": phase,
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": said}],
        "containerStatuses": [
            container(
                {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, ready=ready, started=started, restarts=restarts
            )
        ],
    }


def container(
    state: Mapping[str, Any],
    *,
    ready: bool = False,
    started: bool = False,
    restarts: int = 0,
    last_state: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The status of the engine's container."""
    return {
        "name": names.ENGINE_CONTAINER,
        "image": "engine",
        "imageID": "",
        "containerID": f"test://{restarts}",
        "ready": ready,
        "started": started,
        "restartCount": restarts,
        "state": state,
        "lastState": last_state or {},
    }


def pod(
    name: str,
    status: Mapping[str, Any],
    *,
    uid: str = "",
    created: str = "2026-01-01T00:00:00Z",
    deleted: bool = False,
    model: str = "m",
) -> dict[str, Any]:
    """A pod as the API server tells of it."""
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": "default",
        "uid": uid or f"uid-of-{name}",
        "creationTimestamp": created,
        "labels": labels(model),
    }
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-01T01:00:00Z"
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}, "status": dict(status)}


def gateway_pod(name: str, ip: str, **given: Any) -> dict[str, Any]:
    """A pod of one of the model's gateways."""
    one = pod(name, {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]} if ip else {"phase": "Pending"}, **given)
    one["metadata"]["labels"][names.COMPONENT_LABEL] = names.GATEWAY
    return one
