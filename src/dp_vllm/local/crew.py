"""What of a run is on other machines, as its supervisor on this one sees it: usually nothing.

A supervisor reports to its crew and takes orders from it; `slurm.head` and `slurm.member` are the crews of a run that
spans nodes. It must not know how they reach each other.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import msgspec

from dp_vllm.endpoints import Endpoint
from dp_vllm.local.probe import GatewayState


class Sight(msgspec.Struct, frozen=True, tag="sight"):
    """What the gateway does with replicas, wherever they are."""

    uses: frozenset[str] = frozenset()
    """It sends requests there."""
    done: frozenset[str] = frozenset()
    """They are to end, and it has nothing in flight there and will send nothing."""
    in_flight: int = 0
    """In the whole gateway."""


class Outlook(msgspec.Struct, frozen=True):
    """How far the replicas of one supervisor have come."""

    was_ready: bool = False
    """Any of them ever was."""
    given_up: bool = True
    """All stay down."""


def sight_of(state: GatewayState | None, draining: Mapping[str, int], *, running: bool) -> Sight | None:
    """What a gateway's own account shows; None if it runs and does not answer.

    `draining` has the generation of the endpoints file since which each of these replicas gets nothing new.
    """
    if not running:
        return Sight(done=frozenset(draining))
    if state is None:
        return None
    done = (name for name, since in draining.items() if state.is_done_with(name, since))
    return Sight(frozenset(filter(state.uses, state.replicas)), frozenset(done), state.in_flight)


class Crew:
    """A run on one machine: nobody else."""

    gateway_is_elsewhere: ClassVar[bool] = False
    """This supervisor has doors before its replicas, and no gateway."""

    def __init__(self) -> None:
        self.changed: Callable[[], None] = lambda: None
        """Called whenever something is new: set by the supervisor."""
        self.say: Callable[[str], None] = lambda sentence: None
        """Tells people: set by the supervisor."""

    @property
    def elsewhere(self) -> tuple[Endpoint, ...]:
        """The replicas on other machines."""
        return ()

    @property
    def outlook(self) -> Outlook:
        """Of those."""
        return Outlook()

    @property
    def sight(self) -> Sight | None:
        """What a gateway elsewhere does; None as long as that is not known."""
        return None

    @property
    def order(self) -> float | None:
        """In how many seconds everything is to end, if somebody else has decided so."""
        return None

    def report(self, own: Sequence[Endpoint], outlook: Outlook) -> None:
        """How the replicas here are."""

    def show(self, sight: Sight) -> None:
        """What the gateway here does."""

    def end(self, drain_seconds: float) -> None:
        """Everything ends: what is in flight has so long."""
