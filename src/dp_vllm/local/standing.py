"""How a run stands, and what can be ordered of it: what the supervisor's socket speaks and `dp-vllm status` reads.

Plain values, encoded as JSON. Every length of time is in seconds. Keys may be added later; none changes its meaning.
"""

import msgspec

from dp_vllm.endpoints import State
from dp_vllm.engine.log import Stage
from dp_vllm.local.plan import Then


class End(msgspec.Struct, frozen=True):
    """How one life of a program ended."""

    how: str
    """`exit status 1`, `killed by SIGKILL`."""
    cause: str
    """The likely cause; empty if none is known."""
    last_line: str
    """The last thing that it said."""
    seconds_ago: float
    ready_seconds: float | None
    """How long it had been ready; null if it never was."""
    folder: str | None = None
    """Where more of it is written down; null if nobody asked why, or nothing could be written."""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.how, self.cause or self.last_line)))


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """An engine, or the gateway, and the row of its lives."""

    state: State
    pid: int | None
    """Null while nothing runs."""
    starts: int
    ready_seconds: float | None
    """How long it has been ready; null if it is not."""
    starting_seconds: float | None
    """How long its start takes so far; null if it does not start."""
    message: str
    """How far the start is, or what it waits for."""
    stage: Stage | None = None
    """How far the start is, as its log or the hub's cache says; null while neither does, and once it is ready."""
    failures: int
    """Ends in a row; 0 again after it was ready for long, or was ordered to start."""
    last_end: End | None
    """The last of that row."""
    stays_down: bool
    """It failed so often in the same way that it is not started any more."""
    log: str


class Replica(Program, frozen=True, kw_only=True):
    """One complete copy of the model."""

    name: str
    models: tuple[str, ...] = ()
    """What clients call its model, where the run serves several."""
    gpus: tuple[str, ...]
    worst_link: str | None
    """The slowest link between any two of its GPUs, if that is known."""
    address: str
    ordered: Then | None
    """What becomes of it once it has ended, if it was told to end."""
    drain_seconds: float | None
    """How long what is in flight on it still has, if it was told to end."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `GET /state`, and to every order."""

    name: str
    model: str
    engine: str
    """With its version: `vllm 0.32.0`."""
    endpoint: str
    supervisor_pid: int
    seconds: float
    """Since it began."""
    stopping: bool
    """It was told to end."""
    generation: int
    """Of the endpoints file."""
    gateway: Program
    replicas: tuple[Replica, ...]


class StopOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /stop`: these replicas are to end."""

    replicas: tuple[str, ...]
    drain_seconds: float
    """How long what is in flight may take."""
    then: Then


class ScaleOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /scale`: there are to be so many replicas; the last ones go first."""

    replicas: int
    drain_seconds: float
    """How long what is in flight on those that go may take."""
    model: str = ""
    """What clients call the model that is meant, where several are served."""


class Refusal(msgspec.Struct, frozen=True):
    """The answer to an order that is not carried out, with a status that is not 200."""

    error: str
    """A sentence."""
