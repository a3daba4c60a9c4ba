"""Replica pods that live through everything a cluster does to pods, in imagined time. A fake for tests of decisions.

`act` is the operator: it asks for a plan and carries it out, wholly or in part, and keeps what the operator keeps.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import fleets
from fleets import GPU, INSUFFICIENT, NOW, UNBOUND, wanted

from dp_vllm_operator.backoff import Failures
from dp_vllm_operator.fleet import Wanted
from dp_vllm_operator.plan import Plan, RolloutState, plan
from dp_vllm_operator.replica import Replica

GRACE_SECONDS: Final = 315.0


@dataclass
class ImaginedPods:
    """The pods of one model, and the accelerators that they share."""

    capacity: int = 8
    now: float = NOW
    gpus: dict[int, int] = field(default_factory=dict)
    """How many accelerators a replica of a revision asks for, if it is not 1."""
    broken: set[int] = field(default_factory=set)
    """Revisions that never get Ready."""
    gated: bool = False
    unbound: bool = False
    pods: dict[str, Replica] = field(default_factory=dict)
    _uids: Iterator[int] = field(default_factory=itertools.count)

    def live(self) -> list[Replica]:
        return [pod for pod in self.pods.values() if pod.lives]

    def available(self) -> int:
        return sum(pod.available(self.now) for pod in self.live())

    def make(self, revision: int, number: int) -> None:
        assert number not in {pod.number for pod in self.pods.values()}, "that name is taken"
        made = fleets.pod(number, revision, age=0, phase="Pending", gpus=self.gpus.get(revision, 1))
        uid = f"uid-{next(self._uids)}"
        made = replace(made, uid=uid, created_at=self._second, waiting_since=self._second, node="")
        self.pods[uid] = replace(made, unscheduled="SchedulingGated") if self.gated else made

    def delete(self, uid: str) -> None:
        """One that is on no node, or dead, is gone at once."""
        pod = self.pods[uid]
        if pod.bound and not pod.ended:
            self.pods[uid] = replace(pod, ends_by=self._second + GRACE_SECONDS)
        else:
            del self.pods[uid]

    def let_go(self) -> None:
        """All that are ending have ended."""
        self.pods = {uid: pod for uid, pod in self.pods.items() if not pod.terminating}

    def schedule(self) -> None:
        """Each gets a node, or is told why not, the oldest first."""
        for uid, pod in sorted(self.pods.items(), key=lambda item: item[1].created_at):
            if pod.lives and not pod.bound:
                self.pods[uid] = self._scheduled(pod)

    def get_ready(self, pick: Callable[[list[Replica]], Replica | None] | None = None) -> None:
        """Those that can: all, or the one that is picked."""
        able = [pod for pod in self.live() if pod.bound and not pod.ready and pod.revision not in self.broken]
        for pod in able if pick is None else filter(None, [pick(able)]):
            self.change(pod, phase="Running", started=True, ready_since=self._second)

    def stop_being_ready(self, pod: Replica, *, restart: bool) -> None:
        self.change(pod, ready_since=None, started=not restart, waiting_since=self._second)

    def fail(self, pod: Replica) -> None:
        self.change(pod, phase="Failed", ready_since=None)

    def change(self, pod: Replica, **values: object) -> None:
        self.pods[pod.uid] = replace(pod, **values)  # type: ignore[arg-type]

    @property
    def _second(self) -> float:
        """An API server's times have no fractions."""
        return float(int(self.now))

    def _scheduled(self, pod: Replica) -> Replica:
        if self.gated and pod.gated:
            return pod
        used = sum(other.accelerators[GPU] for other in self.pods.values() if other.bound and not other.ended)
        if self.unbound or used + pod.accelerators[GPU] > self.capacity:
            since = self._second if pod.unscheduled_since is None else pod.unscheduled_since
            message = UNBOUND if self.unbound else INSUFFICIENT
            return replace(
                pod, unscheduled="Unschedulable", unscheduled_message=message, unscheduled_since=since, address=""
            )
        return replace(
            pod,
            node="node",
            unscheduled="",
            unscheduled_message="",
            unscheduled_since=None,
            waiting_since=self._second,
        )


@dataclass
class ImaginedOperator:
    """What is asked of it, and what it remembers."""

    cluster: ImaginedPods
    wanted: Wanted = field(default_factory=lambda: wanted(1, 1, fallback=None))
    failures: Failures = field(default_factory=Failures)

    def ask(self, **edits: object) -> None:
        """The user edits the spec."""
        before, self.wanted = self.wanted, replace(self.wanted, **edits)  # type: ignore[arg-type]
        if self.wanted.revision != before.revision:
            self.wanted = replace(self.wanted, stalled_at=None)

    def plan(self) -> Plan:
        """What it would do, without doing it. It puts a stall on record, and forgets it."""
        now = self.cluster.now
        for dead in self.cluster.pods.values():
            if dead.ended and not dead.terminating:
                self.failures.note(dead.uid, now)
        self.wanted = replace(self.wanted, hold=self.failures.hold(now))
        planned = plan(self.wanted, list(self.cluster.pods.values()), (), {}, now)
        if planned.rollout is not RolloutState.STALLED:
            self.wanted = replace(self.wanted, stalled_at=None)
        elif self.wanted.stalled_at is None:
            self.wanted = replace(self.wanted, stalled_at=now)
        if planned.rollout is RolloutState.DONE and self.wanted.replicas:
            self.wanted = replace(self.wanted, fallback=self.wanted.revision)
        return planned

    def act(self, planned: Plan, writes: int | None = None) -> None:
        """Carry the plan out, or only so many writes of it: then the operator dies."""
        deletes = [partial(self.cluster.delete, delete.replica.uid) for delete in planned.delete]
        creates = [partial(self.cluster.make, create.revision, create.number) for create in planned.create]
        for write in (*deletes, *creates)[:writes]:
            write()
