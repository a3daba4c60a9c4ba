"""What a replica is doing on its way to Ready, or to its end, so coarse that a status of it does not tick. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from dp_vllm import names
from dp_vllm.engine import log
from dp_vllm_operator.replica import Replica

LATE_SECONDS: Final = 30.0
"""A pod that should have ended so long ago has a node that does not answer."""

LOADING_PHASES: Final = ("Downloading", "Loading", "Compiling", "Capturing", "WarmingUp")
"""Of an engine, in their order. Those before: Waiting, Creating, Starting."""

PHASES: Final = ("Waiting", "Creating", "Starting", *LOADING_PHASES, "NotReady", "Ready", "Draining")


@dataclass(frozen=True, slots=True)
class Progress:
    """What a replica is doing."""

    phase: str
    """One of PHASES, or how its pod ended."""
    message: str = ""
    percent: int | None = None
    """Full tens."""


def progress(replica: Replica, lines: Sequence[str], now: float) -> Progress:
    """What the replica is doing now; `lines` are the newest of its engine's log."""
    if replica.terminating:
        return _draining(replica, now)
    if replica.ended:
        return Progress(replica.phase)
    if replica.ready:
        return Progress("Ready")
    if not replica.bound:
        return Progress("Waiting", replica.unscheduled_message or "waits for a node")
    if "running" not in (_engine(replica).get("state") or {}):
        return Progress("Creating", "its image is pulled, its volumes are mounted, its init containers run")
    if replica.started:
        return Progress("NotReady", "its engine has started, but does not answer /health now")
    return start(lines)


def start(lines: Sequence[str]) -> Progress:
    """How far the start of an engine is, by the newest lines of its log."""
    stage = log.stage(lines)
    if stage is None:
        return Progress("Starting", "its engine starts")
    return Progress(stage.phase, stage.words, None if stage.percent is None else tens(stage.percent))


def tens(percent: float) -> int:
    """Full tens, so that what is shown changes ten times and no more."""
    return min(100, max(0, int(percent) // 10 * 10))


def _draining(replica: Replica, now: float) -> Progress:
    if replica.ends_by is None:
        return Progress("Draining")
    by = datetime.fromtimestamp(replica.ends_by, UTC).strftime("%H:%M:%S UTC")
    if now > replica.ends_by + LATE_SECONDS:
        return Progress("Draining", f"should have ended by {by}: its node {replica.node} does not answer")
    return Progress("Draining", f"finishes its requests, until {by} at the latest")


def _engine(replica: Replica) -> Mapping[str, Any]:
    statuses = replica.body.get("status", {}).get("containerStatuses") or ()
    return next((status for status in statuses if status.get("name") == names.ENGINE_CONTAINER), {})
