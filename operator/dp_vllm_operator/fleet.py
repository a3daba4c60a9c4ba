"""What a model asks of its replicas, and those that live: what every decision about them looks at. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from dp_vllm.spec import Strategy
from dp_vllm_operator.backoff import Hold
from dp_vllm_operator.replica import Replica


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a model asks of its replicas."""

    replicas: int
    revision: int
    """What they shall be of: the target. Any other revision is old, also one with a higher number (undo)."""
    fallback: int | None
    """The last revision with which the model was Ready as a whole; None before the first."""
    stalled_at: float | None
    """Since when every plan for this target has said STALLED; None if the last one did not."""
    strategy: Strategy
    surge_timeout_seconds: float
    progress_deadline_seconds: float
    paused: bool
    hold: Hold
    """So many of the replicas that are missing died, and are not replaced yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The living replicas of a model at one moment."""

    wanted: Wanted
    live: tuple[Replica, ...]
    """By number. Terminating and dead ones are none of it."""
    ending: bool
    """A pod of the model is about to be gone, and to free its accelerators."""
    now: float

    @classmethod
    def of(cls, wanted: Wanted, replicas: Iterable[Replica], now: float) -> Self:
        """Take the living ones out of all pods of the model. One that should be gone by now frees nothing."""
        pods = sorted(replicas, key=lambda replica: (replica.number, replica.name))
        ending = any(pod.ends_by is not None and pod.ends_by > now for pod in pods)
        return cls(wanted=wanted, live=tuple(pod for pod in pods if pod.lives), ending=ending, now=now)

    def without(self, gone: Iterable[Replica]) -> Self:
        """The same fleet after these were deleted."""
        uids = {replica.uid for replica in gone}
        live = tuple(replica for replica in self.live if replica.uid not in uids)
        return replace(self, live=live, ending=self.ending or bool(uids))

    @property
    def surplus(self) -> int:
        """How many more there are than wanted; negative if some are missing."""
        return len(self.live) - self.wanted.replicas

    @property
    def old(self) -> tuple[Replica, ...]:
        """Those of another revision than the target."""
        return tuple(replica for replica in self.live if replica.revision != self.wanted.revision)

    @property
    def new(self) -> tuple[Replica, ...]:
        """Those of the target revision."""
        return tuple(replica for replica in self.live if replica.revision == self.wanted.revision)

    @property
    def starting(self) -> tuple[Replica, ...]:
        """Those of the target revision that do not count yet, or no more."""
        return tuple(replica for replica in self.new if not replica.available(self.now))

    @property
    def available(self) -> int:
        """How many have been Ready for long enough to count."""
        return sum(replica.available(self.now) for replica in self.live)

    def spare(self, candidates: Iterable[Replica], least: int) -> tuple[Replica, ...]:
        """Those of which one may end so that `least` stay available, or that are not available anyway."""
        enough = self.available > least
        return tuple(replica for replica in candidates if enough or not replica.available(self.now))
