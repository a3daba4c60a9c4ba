"""What a decision about replicas is made of: who ends, how many are made, and how far the rollout is. Pure."""

import enum
from dataclasses import dataclass

from dp_vllm_operator.fleet import Fleet
from dp_vllm_operator.replica import Replica


class RolloutState(enum.Enum):
    """How far the model is on its way to the wanted replicas of the target revision."""

    DONE = "Done"
    FIRST_START = "FirstStart"
    """The model was never Ready as a whole."""
    SCALING = "Scaling"
    """All there are, are of the target; some are missing, not Ready yet, or too many."""
    ROLLING = "Rolling"
    WAITING_FOR_QUOTA = "WaitingForQuota"
    """A quota system has not admitted a new replica yet. That is no failure."""
    SURGE_UNSCHEDULABLE = "SurgeUnschedulable"
    """There is no place for one more replica, and the strategy forbids that an old one ends first."""
    STALLED = "Stalled"
    """A replica of the target is not Ready after the progress deadline."""
    PAUSED = "Paused"


@dataclass(frozen=True, slots=True)
class Delete:
    """A replica that is to end: delete its pod with its uid as a precondition."""

    replica: Replica
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is to be done with the living replicas now."""

    state: RolloutState
    message: str
    """For the status: true for as long as nothing changes in the cluster."""
    delete: tuple[Delete, ...] = ()
    create: int = 0
    revision: int = 0
    """Of those that are made."""
    purpose: str = ""
    """Why they are made."""
    tied: tuple[Replica, ...] = ()
    """The replicas whose loads decide who ends."""


def makeable(missing: int, fleet: Fleet) -> int:
    """How many of the missing replicas may be made now: dead ones are replaced after a while."""
    return max(0, missing - fleet.wanted.hold.held(fleet.now))


def counted(count: int, noun: str = "replica") -> str:
    """`1 replica`, `2 replicas`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
