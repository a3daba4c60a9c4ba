"""What to do with the replicas of a model now: which pods to make, which to delete, and why, in one sentence.

Pure: it sees the pods as they were listed a moment ago and what the model asks for, and knows neither the cluster nor
what was planned before. Every plan can be carried out in part: the next one goes on from whatever came of it.
Delete first, each with its uid as a precondition, then create; stop at the first refusal.

- Terminating pods are gone. Failed and Succeeded ones are deleted; `Wanted.hold` says how many of them stay missing.
- Nothing is wanted: all end. Paused or stalled: `standstill`. Else: `rollout`.
- What is missing is made at once, and what is too much ends at once. At most one more than wanted is ever made.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, groupby, islice

from dp_vllm_operator.fleet import Fleet, Wanted
from dp_vllm_operator.replica import READY_SECONDS, Replica
from dp_vllm_operator.rollout import roll
from dp_vllm_operator.standstill import hold_out, is_stalled, pause
from dp_vllm_operator.step import Delete, RolloutState, Step, counted

__all__ = ["Create", "Delete", "Plan", "RolloutState", "Wanted", "needs_loads", "plan"]

NAMED = 3
"""So many pods are named in the sentence; of more, the number is told."""


@dataclass(frozen=True, slots=True)
class Create:
    """A replica that is to be made. Its name is `<model>-<revision>-<number>`."""

    revision: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do now, how far the rollout is, and when to look again though nothing happens."""

    create: tuple[Create, ...]
    delete: tuple[Delete, ...]
    why: str
    """One sentence; empty if there is nothing to do."""
    rollout: RolloutState
    message: str
    """How far the rollout is, in words that change only if the cluster does."""
    look_again_seconds: float | None


def plan(
    wanted: Wanted,
    replicas: Sequence[Replica],
    taken_numbers: Collection[int],
    loads: Mapping[str, float | None],
    now: float,
) -> Plan:
    """Decide. `replicas` are all pods of the model, Terminating and dead ones too.

    Further numbers may be taken. Of the loads, only those of `needs_loads` matter.
    """
    step = _step(Fleet.of(wanted, replicas, now), loads)
    pods = sorted(replicas, key=lambda pod: (pod.number, pod.name))
    dead = tuple(Delete(pod, pod.end) for pod in pods if pod.ended and not pod.terminating)
    taken = {*taken_numbers, *(pod.number for pod in replicas)}
    free = (number for number in count() if number not in taken)
    create = tuple(Create(step.revision, number) for number in islice(free, step.create))
    return Plan(
        create=create,
        delete=(*dead, *step.delete),
        why=_sentence(step, dead),
        rollout=step.state,
        message=step.message,
        look_again_seconds=min((at - now for at in _times(wanted, replicas, now) if at > now), default=None),
    )


def needs_loads(wanted: Wanted, replicas: Sequence[Replica], now: float) -> tuple[Replica, ...]:
    """The replicas whose loads decide which of them ends. Empty if the loads do not matter, as most of the time."""
    return _step(Fleet.of(wanted, replicas, now), {}).tied


def _step(fleet: Fleet, loads: Mapping[str, float | None]) -> Step:
    if fleet.wanted.replicas == 0:
        return _nothing(fleet)
    if fleet.wanted.paused:
        return pause(fleet, loads)
    if is_stalled(fleet):
        return hold_out(fleet, loads)
    return roll(fleet, loads)


def _nothing(fleet: Fleet) -> Step:
    return Step(
        state=RolloutState.SCALING if fleet.live else RolloutState.DONE,
        message="no replica is wanted",
        delete=tuple(Delete(replica, "none wanted") for replica in fleet.live),
    )


def _sentence(step: Step, dead: Iterable[Delete]) -> str:
    parts = []
    if step.create:
        parts.append(f"create {counted(step.create)} of revision {step.revision}: {step.purpose}")
    for why, together in groupby((*dead, *step.delete), key=lambda delete: delete.why):
        names = [delete.replica.name for delete in together]
        shown = ", ".join(names) if len(names) <= NAMED else f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"
        parts.append(f"delete {shown}: {why}")
    return "; ".join(parts)


def _times(wanted: Wanted, replicas: Iterable[Replica], now: float) -> Iterator[float]:
    """When time alone may change the plan."""
    if wanted.hold.replicas:
        yield wanted.hold.until
    for pod in replicas:
        if pod.ends_by is not None:
            yield pod.ends_by
        elif pod.ready_since is not None:
            yield pod.ready_since + READY_SECONDS
        elif pod.lives and pod.revision == wanted.revision and not pod.gated:
            yield pod.waiting_since + wanted.progress_deadline_seconds
            if pod.unscheduled_since is not None:
                yield pod.unscheduled_since + wanted.surge_timeout_seconds
