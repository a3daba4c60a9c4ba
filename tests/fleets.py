"""Replica pods as short words, for tests of what is decided about them."""

from typing import Final, NamedTuple, Protocol

import pytest

from dp_vllm.spec import Strategy
from dp_vllm_operator.backoff import Hold
from dp_vllm_operator.fleet import Wanted
from dp_vllm_operator.plan import Plan, RolloutState, plan
from dp_vllm_operator.replica import Replica

NOW: Final = 1_000_000.0
GPU: Final = "nvidia.com/gpu"
INSUFFICIENT: Final = f"0/2 nodes are available: 2 Insufficient {GPU}. preemption: 0/2 nodes are available."
UNBOUND: Final = "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims."

SURGE_SECONDS: Final = 60
DEADLINE_SECONDS: Final = 3600


def wanted(
    replicas: int,
    revision: int = 2,
    *,
    fallback: int | None = 1,
    stalled_at: float | None = None,
    strategy: Strategy = Strategy.AUTO,
    surge_timeout_seconds: float = SURGE_SECONDS,
    progress_deadline_seconds: float = DEADLINE_SECONDS,
    paused: bool = False,
    hold: Hold = Hold(),  # noqa: B008  frozen
) -> Wanted:
    """A rollout from revision 1 to 2, unless said otherwise."""
    return Wanted(
        replicas=replicas,
        revision=revision,
        fallback=fallback,
        stalled_at=stalled_at,
        strategy=strategy,
        surge_timeout_seconds=surge_timeout_seconds,
        progress_deadline_seconds=progress_deadline_seconds,
        paused=paused,
        hold=hold,
    )


class Pod(Protocol):
    """Makes a replica with this number and revision."""

    def __call__(self, number: int, revision: int) -> Replica: ...


def pod(
    number: int,
    revision: int,
    *,
    age: float | None = None,
    ends_by: float | None = None,
    phase: str = "Running",
    started: bool | None = None,
    ready_seconds: float | None = None,
    waiting_seconds: float | None = None,
    unscheduled: str = "",
    unscheduled_message: str = "",
    gpus: int = 1,
    deletion_cost: int = 0,
    reason: str = "",
) -> Replica:
    """One pod. Unless its age is told, those with high numbers are younger, and all are older than a day."""
    age = 100_000.0 - number if age is None else age
    created_at = NOW - age
    return Replica(
        name=f"m-{revision}-{number}",
        uid=f"uid-{number}",
        revision=revision,
        number=number,
        created_at=created_at,
        ends_by=ends_by,
        phase=phase,
        started=ready_seconds is not None if started is None else started,
        ready_since=None if ready_seconds is None else NOW - ready_seconds,
        waiting_since=created_at if waiting_seconds is None else NOW - waiting_seconds,
        unscheduled=unscheduled,
        unscheduled_message=unscheduled_message,
        unscheduled_since=created_at if unscheduled else None,
        accelerators={GPU: gpus} if gpus else {},
        deletion_cost=deletion_cost,
        address="" if unscheduled else f"10.0.0.{number}",
        node="" if unscheduled else "node",
        body={"status": {"reason": reason}},
    )


def _unscheduled(age: float, why: str = INSUFFICIENT, gpus: int = 1) -> Pod:
    def made(number: int, revision: int) -> Replica:
        return pod(
            number,
            revision,
            age=age,
            phase="Pending",
            unscheduled="Unschedulable",
            unscheduled_message=why,
            gpus=gpus,
        )

    return made


STATES: Final[dict[str, Pod]] = {
    "ready": lambda number, revision: pod(number, revision, ready_seconds=100),
    "odd": lambda number, revision: pod(number, revision, ready_seconds=100, started=False),
    "fresh": lambda number, revision: pod(number, revision, ready_seconds=4, age=50),
    "ahead": lambda number, revision: pod(number, revision, ready_seconds=-3000),
    "cheap": lambda number, revision: pod(number, revision, ready_seconds=100, deletion_cost=-10),
    "dear": lambda number, revision: pod(number, revision, ready_seconds=100, deletion_cost=10),
    "dear-unready": lambda number, revision: pod(number, revision, started=True, deletion_cost=10),
    "pending": lambda number, revision: pod(number, revision, phase="Pending", age=50),
    "starting": lambda number, revision: pod(number, revision, age=50),
    "restarting": lambda number, revision: pod(number, revision, waiting_seconds=50),
    "unready": lambda number, revision: pod(number, revision, started=True, waiting_seconds=50),
    "late": lambda number, revision: pod(number, revision, age=DEADLINE_SECONDS),
    "new": lambda number, revision: pod(number, revision, phase="Pending", age=0, unscheduled="?"),
    "waits": _unscheduled(SURGE_SECONDS - 1),
    "blocked": _unscheduled(SURGE_SECONDS),
    "blocked-of-2": _unscheduled(SURGE_SECONDS, gpus=2),
    "blocked-by-cpu": _unscheduled(SURGE_SECONDS, "0/2 nodes are available: 2 Insufficient cpu."),
    "unbound": _unscheduled(SURGE_SECONDS, UNBOUND),
    "stuck": _unscheduled(DEADLINE_SECONDS),
    "stuck-of-2": _unscheduled(DEADLINE_SECONDS, gpus=2),
    "gated": lambda number, revision: pod(number, revision, phase="Pending", unscheduled="SchedulingGated"),
    "gated-lately": lambda number, revision: pod(number, revision, age=50, unscheduled="SchedulingGated"),
    "failed": lambda number, revision: pod(number, revision, age=50, phase="Failed", reason="UnexpectedAdmissionError"),
    "failed-ending": lambda number, revision: pod(number, revision, phase="Failed", ends_by=NOW + 300),
    "succeeded": lambda number, revision: pod(number, revision, phase="Succeeded"),
    "ending": lambda number, revision: pod(number, revision, ready_seconds=100, ends_by=NOW + 300),
    "never-ending": lambda number, revision: pod(number, revision, ready_seconds=100, ends_by=NOW - 1),
}


def fleet(words: str) -> tuple[Replica, ...]:
    """`1:ready 2:starting`: pods 0 and 1, of revisions 1 and 2. `1:ready*3` are three of them. `-` is a free number."""
    pods: list[Replica] = []
    number = 0
    for word in words.split():
        state, _, times = word.partition("*")
        for _ in range(int(times or 1)):
            if word != "-":
                revision, _, kind = state.partition(":")
                pods.append(STATES[kind](number, int(revision)))
            number += 1
    return tuple(pods)


def actions(planned: Plan) -> str:
    """`-0 +2:4`: pod 0 is deleted, and pod 4 made of revision 2."""
    deleted = (f"-{delete.replica.number}" for delete in planned.delete)
    return " ".join((*deleted, *(f"+{create.revision}:{create.number}" for create in planned.create)))


class Case(NamedTuple):
    """What is decided about these pods."""

    what: str
    wanted: Wanted
    pods: str
    actions: str
    state: RolloutState


def cases(*listed: Case) -> pytest.MarkDecorator:
    """Run the test with each."""
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.what.replace(" ", "-")) for case in listed])


def decided(asked: Wanted, pods: str) -> Plan:
    """The plan without any loads."""
    return plan(asked, fleet(pods), (), {}, NOW)


def check(case: Case) -> Plan:
    """The plan is the expected one."""
    planned = decided(case.wanted, case.pods)
    assert (actions(planned), planned.rollout) == (case.actions, case.state)
    assert bool(planned.why) == bool(case.actions)
    assert planned.message
    return planned
