"""Decides what is to be done with a program now: start it, leave it alone, ask it to end, kill it.

The same rules hold for engines and for the gateway; `Limits` says where they differ. Pure: it knows no processes, only
what was observed of them, and every time in it is a reading of the same monotonic clock, in seconds.
"""

import enum
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_NUMBER: Final = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient to be with one kind of program."""

    restart_delays_seconds: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 60)
    """How long to wait after the first, second, ... end in a row; the last counts for all further ones."""
    steady_seconds: float = 300
    """Ready for this long, its next end is the first of a row again."""
    same_failures: int = 3
    """So many failed starts in a row that look the same, and it stays down."""
    second_term_seconds: float = 1.0
    """vLLM swallows the first SIGTERM while its engine starts; so long after it comes the second."""
    term_seconds: float = 30.0
    """So long after the first SIGTERM it is killed, although its requests might have had longer."""


ENGINE = Limits()
GATEWAY = Limits(restart_delays_seconds=(0, 1, 2, 4, 8, 16, 32, 60), term_seconds=float("inf"))
"""A gateway is restarted at once: it loads nothing, and clients wait in the listening socket.

It ends its requests after SIGTERM, so there is no other limit to that than the order's.
"""


@dataclass(frozen=True, slots=True)
class End:
    """That a program ended, or could not be started."""

    at: float
    ready_seconds: float | None
    """How long it had been ready; None if it never was."""
    how: str
    """`exit status 1`, `killed by SIGKILL`."""
    cause: str = ""
    """The likely cause, if one is known."""
    last_line: str = ""
    """The last thing it said: for the one who started it, not for clients."""
    folder: Path | None = None
    """Where it is written down."""
    excused: bool = False
    """It was started in a way that is not tried again."""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.how, self.cause or self.last_line)))

    @property
    def for_clients(self) -> str:
        """Without words of the program's own, which could hold anything."""
        return ": ".join(filter(None, (self.how, self.cause)))

    def looks_like(self, other: "End") -> bool:
        """Whether they differ at most in the pids, times and sizes that differ from one start to the next."""
        return _NUMBER.sub("#", str(self)) == _NUMBER.sub("#", str(other))


class Then(enum.Enum):
    """What becomes of a program that was ordered to end, once it has."""

    STAY_DOWN = "stay_down"
    START = "start"
    LEAVE = "leave"
    """It is no longer part of the run."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The order to end a program."""

    drain_until: float
    """Until then what is in flight on it may end."""
    kill_at: float
    then: Then = Then.STAY_DOWN


@dataclass(frozen=True, slots=True)
class Observed:
    """One program at one moment."""

    running: bool = False
    """Anything of it is left: also true while only its descendants are."""
    ready_at: float | None = None
    ends: tuple[End, ...] = ()
    """The ends in a row, oldest first, as `ends_after` makes them."""
    stop: Stop | None = None
    """What was ordered; None if it is to run."""
    drained: bool = False
    """Nothing is in flight on it, and nothing will be sent to it."""
    terms: tuple[float, ...] = ()
    """When SIGTERM was sent to it."""
    killed: bool = False


class Action(enum.Enum):
    """What is to be done with one program now."""

    START = "start"
    TERM = "send SIGTERM"
    KILL = "kill"
    REMOVE = "remove"


def decide(observed: Observed, now: float, limits: Limits) -> Action | None:
    """The next step for one program; None while there is nothing to do."""
    if not observed.running:
        if observed.stop is not None:
            return _AFTER[observed.stop.then]
        at = start_at(observed.ends, limits)
        return Action.START if at is not None and now >= at else None
    if observed.stop is None or observed.killed:
        return None
    return _end(observed, observed.stop, now, limits)


_AFTER: Final = {Then.STAY_DOWN: None, Then.START: Action.START, Then.LEAVE: Action.REMOVE}


def _end(observed: Observed, stop: Stop, now: float, limits: Limits) -> Action | None:
    if now >= stop.kill_at or (observed.terms and now >= observed.terms[0] + limits.term_seconds):
        return Action.KILL
    starting = observed.ready_at is None
    if not observed.terms:
        return Action.TERM if starting or observed.drained or now >= stop.drain_until else None
    swallowed = starting and len(observed.terms) == 1 and now >= observed.terms[0] + limits.second_term_seconds
    return Action.TERM if swallowed else None


def start_at(ends: tuple[End, ...], limits: Limits) -> float | None:
    """When a program with these ends is to be started; None if it stays down."""
    if stays_down(ends, limits):
        return None
    if not ends:
        return float("-inf")
    delays = limits.restart_delays_seconds
    return ends[-1].at + delays[min(len(ends), len(delays)) - 1]


def ends_after(ends: tuple[End, ...], end: End, limits: Limits) -> tuple[End, ...]:
    """The ends in a row once `end` came: it begins a new row if the program had been ready for long."""
    steady = end.ready_seconds is not None and end.ready_seconds >= limits.steady_seconds
    return (end,) if steady else (*ends, end)[-len(limits.restart_delays_seconds) :]


def stays_down(ends: tuple[End, ...], limits: Limits) -> bool:
    """Whether starting again is pointless: the last starts failed, and all in the same way."""
    last = [end for end in ends if not end.excused][-limits.same_failures :]
    return len(last) == limits.same_failures and all(
        end.ready_seconds is None and end.looks_like(last[0]) for end in last
    )
