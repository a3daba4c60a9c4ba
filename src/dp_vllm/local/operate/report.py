"""What `dp-vllm status --json` prints, and how a run is called by what is seen of it. Pure.

The keys are documented in docs/local.md: some may be added, none changes its meaning.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from dp_vllm.endpoints import State
from dp_vllm.local import standing
from dp_vllm.local.operate.look import Counts, Look
from dp_vllm.local.plan import Then
from dp_vllm.local.runs import Found

SERVING: Final = frozenset({"ready", "partly"})
"""States of a run in which requests are answered."""


class Replica(standing.Replica, frozen=True, kw_only=True):
    """What the supervisor says of a replica, and what the gateway adds."""

    serves: bool
    """Requests are sent to it."""
    in_flight: int
    """Requests."""
    waiting: int
    """Those of them that its engine has not begun, as last read."""
    requests: int
    """That have ended, since the gateway began."""
    generated_tokens: int
    """Since its engine began, as last read."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run; of one whose supervisor does not answer, what its directory tells."""

    name: str
    state: str
    """`ready`, `partly`, `starting`, `down`, `stopping`, `silent` (it does not answer), `gone` (it was killed)."""
    problem: str = ""
    """A sentence: what is wrong, and what to do."""
    directory: str
    logs: str
    model: str | None = None
    engine: str | None = None
    endpoint: str | None = None
    supervisor_pid: int | None = None
    seconds: float | None = None
    gateway: standing.Program | None = None
    in_flight: int | None = None
    """Requests, over all replicas."""
    queued: int | None = None
    """Requests that wait for a replica with room."""
    replicas: tuple[Replica, ...] = ()


class Report(msgspec.Struct, frozen=True):
    """All that was asked for."""

    runs: tuple[Run, ...]


def of_run(found: Found, look: Look, counts: Mapping[str, Counts]) -> Run:
    """One that answers."""
    seen, gateway = look.run, look.gateway
    return Run(
        name=seen.name,
        state=state_of(look),
        problem="" if gateway or seen.gateway.state is State.STARTING else "the gateway does not answer",
        directory=str(found.directory.path),
        logs=str(found.directory.logs),
        model=seen.model,
        engine=seen.engine,
        endpoint=seen.endpoint,
        supervisor_pid=seen.supervisor_pid,
        seconds=seen.seconds,
        gateway=seen.gateway,
        in_flight=gateway.in_flight if gateway else None,
        queued=gateway.queued if gateway else None,
        replicas=tuple(_replica(one, look, counts.get(one.name, Counts())) for one in seen.replicas),
    )


def without_answer(found: Found, problem: str) -> Run:
    """One whose supervisor does not answer, or is gone."""
    record = found.record
    return Run(
        name=found.name,
        state="gone" if found.is_gone else "silent",
        problem=problem,
        directory=str(found.directory.path),
        logs=str(found.directory.logs),
        model=record.model if record else None,
        endpoint=record.url if record else None,
        supervisor_pid=record.supervisor.pid if record else None,
    )


def state_of(look: Look) -> str:
    """One word for the whole run. Replicas that were told to stay down, or to leave, are not missed."""
    if look.run.stopping:
        return "stopping"
    wanted = [one.name for one in look.run.replicas if one.ordered in (None, Then.START)]
    serving = look.serving
    if serving:
        return "ready" if set(wanted) <= set(serving) else "partly"
    states = {one.state for one in look.run.replicas}
    return "starting" if states & {State.STARTING, State.READY} else "down"


def _replica(one: standing.Replica, look: Look, counts: Counts) -> Replica:
    told: dict[str, Any] = {name: getattr(one, name) for name in one.__struct_fields__}
    return Replica(
        **told,
        serves=look.serves(one.name),
        in_flight=look.in_flight(one.name),
        waiting=counts.waiting,
        requests=counts.requests,
        generated_tokens=counts.generated_tokens,
    )
