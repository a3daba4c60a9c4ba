"""Whether a failed attempt is made again elsewhere: a pure decision, and the budget that bounds all of them.

The caller asks only while no body byte has reached the client.
"""

import enum
from dataclasses import dataclass
from typing import Final


class Failure(enum.Enum):
    """How an attempt ended without an answer that could be passed on."""

    CONNECT = "could not be connected to"
    BUSY = "is busy"
    DRAINING = "is shutting down"
    DIED = "closed the connection before it answered"
    ENGINE_DEAD = "said that its engine died"
    ABORTED = "aborted the request"
    TIMEOUT = "gave no answer in time"
    GARBAGE = "answered with something that is not HTTP"
    STOPPED = "had not answered yet"


NOT_STARTED: Final = frozenset({Failure.CONNECT, Failure.BUSY, Failure.DRAINING})
"""The engine did nothing with the request; sending it elsewhere repeats nothing."""

DEATHS: Final = frozenset({Failure.DIED, Failure.ENGINE_DEAD})
"""The engine may have died of the request."""

DEATHS_PER_REQUEST: Final = 2
"""A request that was in flight at so many engine deaths is not sent again."""


class Verdict(enum.Enum):
    """What follows from a failure."""

    AGAIN = "another replica is tried"
    GIVE_UP = "the client is told"
    POISON = "the request ends replicas and is not sent again"


@dataclass(frozen=True, slots=True)
class Attempted:
    """What has become of a request so far."""

    failure: Failure
    replays: int
    """How often it has been sent again after an engine had it whole."""
    deaths: int
    """Engine deaths at which a request with this body was in flight, this one included."""
    replayable: bool
    """The route leaves nothing behind on a replica."""


def after(attempted: Attempted) -> Verdict:
    """What to do after a failure that no byte of an answer preceded."""
    if attempted.failure in NOT_STARTED:
        return Verdict.AGAIN
    if attempted.failure in DEATHS and attempted.deaths >= DEATHS_PER_REQUEST:
        return Verdict.POISON
    if attempted.failure in (Failure.TIMEOUT, Failure.GARBAGE, Failure.STOPPED):
        return Verdict.GIVE_UP
    if attempted.replayable and attempted.replays == 0:
        return Verdict.AGAIN
    return Verdict.GIVE_UP


class Budget:
    """Bounds retries to a share of the requests, so that failing engines are not buried under repeats.

    Every request adds `SHARE` of a retry, every second adds `PER_SECOND`, and `RESERVE` can be saved up: enough to
    move the requests of one dead replica at once. After Finagle's and tower's retry budgets. Of the last two each of
    `processes` that share the replicas has its part.
    """

    SHARE = 0.2
    PER_SECOND = 10.0
    RESERVE = 500.0

    __slots__ = ("_left", "_per_second", "_reserve", "_since")

    def __init__(self, now: float, *, processes: int = 1) -> None:
        self._per_second = self.PER_SECOND / processes
        self._left = self._reserve = self.RESERVE / processes
        self._since = now

    def deposit(self) -> None:
        """A request came in."""
        if self._left < self._reserve:
            self._left += self.SHARE

    def withdraw(self, now: float) -> bool:
        """Take one retry if there is one. `now` in seconds of a monotonic clock."""
        self._left = min(self._reserve, self._left + (now - self._since) * self._per_second)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
