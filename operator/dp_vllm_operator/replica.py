"""A replica pod as the operator sees it. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from dp_vllm import names

READY_SECONDS = 5.0
"""A new replica counts after so long of being Ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One replica pod at one moment. Times are seconds since the epoch."""

    name: str
    uid: str
    revision: int
    number: int
    """The last part of its name."""
    created_at: float
    ends_by: float | None
    """When its grace is over; None while nobody has deleted it."""
    phase: str
    """The pod's: Pending, Running, Succeeded, Failed, Unknown."""
    started: bool
    """Its engine has passed the startup probe since its container last started."""
    ready_since: float | None
    """None while it is not Ready."""
    waiting_since: float
    """When its way to Ready began: when it was made, came to its node, or was last Ready, whichever is the latest."""
    unscheduled: str
    """Why it is on no node, as `Unschedulable`, `SchedulingGated`; empty once it is on one."""
    unscheduled_message: str
    """The scheduler's own words."""
    unscheduled_since: float | None
    accelerators: Mapping[str, int]
    """Extended resources that it asks for."""
    deletion_cost: int
    address: str
    """Its IP; empty before it has one."""
    node: str
    body: Mapping[str, Any]
    """The whole object, for what is shown to people."""

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """Read a pod's JSON."""
        metadata, status = body["metadata"], body.get("status", {})
        scheduled = _condition(status, "PodScheduled")
        ready = _condition(status, "Ready")
        unscheduled = scheduled.get("reason", "") if scheduled.get("status") == "False" else ""
        created_at = seconds(metadata["creationTimestamp"])
        annotations = metadata.get("annotations", {})
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            revision=_number(metadata.get("labels", {}).get(names.REVISION_LABEL, "")),
            number=_number(metadata["name"].rpartition("-")[2]),
            created_at=created_at,
            ends_by=seconds(metadata["deletionTimestamp"]) if "deletionTimestamp" in metadata else None,
            phase=status.get("phase", "Pending"),
            started=_engine_started(status),
            ready_since=_turned(ready, created_at) if ready.get("status") == "True" else None,
            waiting_since=max(
                created_at,
                _turned(ready, created_at),
                _turned(scheduled, created_at) if scheduled.get("status") == "True" else created_at,
            ),
            unscheduled=unscheduled,
            unscheduled_message=scheduled.get("message", "") if unscheduled else "",
            unscheduled_since=_turned(scheduled, created_at) if unscheduled else None,
            accelerators=_extended(body.get("spec", {})),
            deletion_cost=_number(annotations.get("controller.kubernetes.io/pod-deletion-cost", "0")),
            address=status.get("podIP", ""),
            node=body.get("spec", {}).get("nodeName", ""),
            body=body,
        )

    @property
    def terminating(self) -> bool:
        """Somebody deleted it: it counts as gone, though it may still finish requests."""
        return self.ends_by is not None

    @property
    def ended(self) -> bool:
        """Its containers have ended for good: a dead replica, whatever its pod is kept for."""
        return self.phase in ("Failed", "Succeeded")

    @property
    def lives(self) -> bool:
        """It serves, or is on its way to."""
        return not self.terminating and not self.ended

    @property
    def ready(self) -> bool:
        return self.lives and self.ready_since is not None

    @property
    def bound(self) -> bool:
        """It is on a node, and has its accelerators."""
        return bool(self.node)

    @property
    def gated(self) -> bool:
        """Somebody else decides when it may be scheduled: a quota system, as Kueue."""
        return not self.bound and self.unscheduled == "SchedulingGated"

    @property
    def end(self) -> str:
        """How it ended, in the cluster's words: `Failed (UnexpectedAdmissionError)`."""
        reason = self.body.get("status", {}).get("reason", "")
        return f"{self.phase} ({reason})" if reason else self.phase

    def available(self, now: float) -> bool:
        """Ready for long enough to count.

        A node whose clock is ahead by more than that says nothing of how long, and must not hold a rollout up.
        """
        return self.ready and self.ready_since is not None and abs(now - self.ready_since) >= READY_SECONDS

    @property
    def lacks_accelerators(self) -> bool:
        """The scheduler found too few of the accelerators that it asks for, and says nothing that hides it.

        An unbound volume claim has the same reason, Unschedulable, but another message.
        """
        return self.unscheduled == "Unschedulable" and any(
            re.search(rf"Insufficient {re.escape(resource)}(?![\w/-]|\.\w)", self.unscheduled_message)
            for resource in self.accelerators
        )


def seconds(timestamp: str) -> float:
    """A Kubernetes time as seconds since the epoch."""
    return datetime.fromisoformat(timestamp).timestamp()


def _turned(condition: Mapping[str, Any], otherwise: float) -> float:
    """When the condition last changed. Older API servers leave null for a pod that was made with scheduling gates."""
    at = condition.get("lastTransitionTime")
    return seconds(at) if at else otherwise


def _engine_started(status: Mapping[str, Any]) -> bool:
    containers = status.get("containerStatuses", ())
    return any(c["name"] == names.ENGINE_CONTAINER and bool(c.get("started")) for c in containers)


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((c for c in status.get("conditions", ()) if c["type"] == kind), {})


def _extended(pod_spec: Mapping[str, Any]) -> dict[str, int]:
    """Extended resources have a domain in their name, and whole numbers."""
    asked: dict[str, int] = {}
    for container in pod_spec.get("containers", ()):
        for resource, amount in container.get("resources", {}).get("limits", {}).items():
            if "/" in resource:
                asked[resource] = asked.get(resource, 0) + _number(str(amount))
    return asked


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return 0
