"""Nodes without machines: plays the kubelet of as many nodes as a test wants, on a control plane without nodes.

Pods are scheduled, "run" as their script says, and end when they are deleted; nothing is executed. What needs a real
container belongs to `make e2e`.
"""

from .kubelet import Kubelet
from .script import (
    CRASH_LOOP,
    EVICTED,
    FAILED,
    IMAGE_PULL,
    NEVER_READY,
    OOM_KILLED,
    READY,
    SUCCEEDED,
    Script,
)

__all__ = [
    "CRASH_LOOP",
    "EVICTED",
    "FAILED",
    "IMAGE_PULL",
    "NEVER_READY",
    "OOM_KILLED",
    "READY",
    "SUCCEEDED",
    "Kubelet",
    "Script",
]
