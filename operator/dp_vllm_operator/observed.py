"""What the operator has found of one model: all that its status is made from. Only values; pure."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from dp_vllm_operator.plan import RolloutState
from dp_vllm_operator.progress import Progress
from dp_vllm_operator.replica import Replica
from dp_vllm_operator.trouble import Trouble

__all__ = ["Download", "DownloadState", "Gateway", "Observed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The Deployment of the model's gateways, as its own status says."""

    desired: int
    available: int
    trouble: Trouble | None = None
    """Of one of its pods."""


class DownloadState(enum.Enum):
    """How far the Job is that fills the cache."""

    NONE = "none"
    """None is needed."""
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """The Job that fills the cache before the first replica."""

    state: DownloadState = DownloadState.NONE
    percent: int | None = None
    message: str = ""
    """What it is doing, or why it failed and what can be done."""
    trouble: Trouble | None = None
    """Of its pod, or why it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One model at one moment."""

    replicas: tuple[Replica, ...]
    """All pods that are the model's own: Terminating and dead ones too."""
    troubles: Mapping[str, Trouble] = field(default_factory=dict)
    """By name of a pod. Of dead ones whose replacement waits too."""
    progress: Mapping[str, Progress] = field(default_factory=dict)
    """By name of a pod, as far as logs were read."""
    rollout: RolloutState
    rollout_message: str = ""
    revision: int | None
    """The target: that which the present spec needs. None if there is none, because none could be made."""
    ready_revision: int | None = None
    """The last one of which all replicas were ready."""
    gateway: Gateway | None = None
    """None: there is no such Deployment, or it is not ours."""
    download: Download = Download()
    orphans: tuple[Replica, ...] = ()
    """Pods that bear the model's label and are not its own."""
    conflicts: tuple[str, ...] = ()
    """Objects that have the name of a child and are not the model's: `services/qwen3`."""
    refused: Trouble | None = None
    """Why the API server refuses the replicas' pod, or a child."""
    undo_error: str = ""
    """Why the annotation that asks for an older revision cannot be followed."""
