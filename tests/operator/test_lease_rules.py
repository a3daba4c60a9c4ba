"""The rules of the Lease, in simulated time: who may take it, who has lost it, and that two never hold it at once."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import simulated_time
from hypothesis import given
from hypothesis import strategies as st
from lease_server import LeaseServer, Line

from dp_vllm_operator import lease
from dp_vllm_operator.neighbours import LOOK_SECONDS, Neighbours

NAMESPACE = "kube-system"


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Candidate:
    """An operator, and when it held the Lease."""

    line: Line
    name: str
    held: list[tuple[float, float]] = field(default_factory=list)
    since: float | None = None
    task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self.task is None:
            self.task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End in good order."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
            self.task = None

    async def _run(self) -> None:
        async with lease.hold(self.line, [NAMESPACE], self.name) as lost:
            self.since = now()
            try:
                await lost.wait()
            finally:
                self.held.append((self.since, now()))
                self.since = None
                self.task = None


@dataclass
class Election:
    """Several candidates before one server."""

    server: LeaseServer
    candidates: list[Candidate]

    def holder(self) -> str:
        return str(self.server.leases[NAMESPACE]["spec"]["holderIdentity"])

    def transitions(self) -> int:
        return int(self.server.leases[NAMESPACE]["spec"]["leaseTransitions"])

    def history(self) -> list[tuple[float, float]]:
        """When it was held by anybody, by begin."""
        open_ones = [(each.since, now()) for each in self.candidates if each.since is not None]
        return sorted([*open_ones, *(span for each in self.candidates for span in each.held)])


@contextlib.asynccontextmanager
async def election(count: int, late_seconds: float = 0.1, seed: int = 1) -> AsyncIterator[Election]:
    server, rng = LeaseServer(), random.Random(seed)
    lines = [Line(server, rng=rng, late_seconds=late_seconds) for _ in range(count)]
    present = Election(server, [Candidate(line, f"operator-{number}") for number, line in enumerate(lines)])
    try:
        yield present
    finally:
        for each in present.candidates:
            await each.stop()


def test_one_holds_and_the_other_waits_for_ever() -> None:
    async def main() -> None:
        async with election(2) as present:
            for each in present.candidates:
                each.start()
            await asyncio.sleep(3600)
            assert len(present.history()) == 1
            assert present.transitions() == 0

    simulated_time.run(main())


def test_a_holder_that_is_cut_off_gives_up_before_another_takes_over() -> None:
    async def main() -> None:
        async with election(2) as present:
            first, second = present.candidates
            first.start()
            await asyncio.sleep(60)
            second.start()
            await asyncio.sleep(60)
            cut = now()
            first.line.cut = True
            await asyncio.sleep(60)
            ((_, lost),) = first.held
            assert second.since is not None
            assert lost <= cut + 10
            assert cut + 12.9 <= second.since <= cut + 17.6
            assert present.holder() == "operator-1"
            assert present.transitions() == 1

    simulated_time.run(main())


def test_a_holder_that_ends_in_good_order_is_followed_within_the_next_try() -> None:
    async def main() -> None:
        async with election(2) as present:
            first, second = present.candidates
            first.start()
            await asyncio.sleep(60)
            second.start()
            await asyncio.sleep(60)
            await first.stop()
            ended = now()
            await asyncio.sleep(10)
            assert second.since is not None
            assert second.since - ended < 2.5

    simulated_time.run(main())


def test_a_short_loss_of_the_line_costs_nothing() -> None:
    async def main() -> None:
        async with election(1) as present:
            (only,) = present.candidates
            only.start()
            for _ in range(10):
                await asyncio.sleep(60)
                only.line.cut = True
                await asyncio.sleep(6)
                only.line.cut = False
            assert only.since is not None

    simulated_time.run(main())


def test_one_that_returns_under_its_name_needs_not_wait() -> None:
    async def main() -> None:
        async with election(1, late_seconds=0) as present:
            (only,) = present.candidates
            only.start()
            await asyncio.sleep(60)
            only.line.cut = True
            await only.stop()  # so the release does not arrive either
            assert present.holder() == "operator-0"
            only.line.cut = False
            began = now()
            only.start()
            await asyncio.sleep(1)
            assert only.since == began
            assert present.transitions() == 0

    simulated_time.run(main())


def test_a_lease_that_somebody_deletes_stays_with_its_holder() -> None:
    async def main() -> None:
        async with election(2) as present:
            for each in present.candidates:
                each.start()
            await asyncio.sleep(60)
            holder = present.holder()
            del present.server.leases[NAMESPACE]
            await asyncio.sleep(60)
            assert present.holder() == holder
            assert len(present.history()) == 1

    simulated_time.run(main())


def test_a_lease_that_somebody_gives_to_another_is_lost_at_the_next_renewal() -> None:
    async def main() -> None:
        async with election(1) as present:
            (only,) = present.candidates
            only.start()
            await asyncio.sleep(60)
            given = present.server.leases[NAMESPACE]
            spec = {**given["spec"], "holderIdentity": "somebody"}
            present.server.answer(
                "PUT", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/x", {**given, "spec": spec}
            )
            changed = now()
            await asyncio.sleep(10)
            ((_, lost),) = only.held
            assert lost - changed < 5
            assert present.holder() == "somebody"

    simulated_time.run(main())


def test_leases_of_several_namespaces_are_kept_together() -> None:
    async def main() -> None:
        server, line = LeaseServer(), None
        line = Line(server, late_seconds=0.1)
        async with lease.hold(line, ["b", "a"], "one") as lost:
            assert sorted(server.leases) == ["a", "b"]
            await asyncio.sleep(600)
            assert not lost.is_set()
            line.cut = True
            began = now()
            await lost.wait()
            assert now() - began <= 10

    simulated_time.run(main())


def test_two_that_want_the_same_namespaces_do_not_wait_for_each_other() -> None:
    async def hold(line: Line, namespaces: list[str], identity: str) -> str:
        async with lease.hold(line, namespaces, identity):
            return identity

    async def main() -> None:
        line = Line(LeaseServer(), late_seconds=0.1)
        both = asyncio.gather(hold(line, ["a", "b"], "one"), hold(line, ["b", "a"], "two"))
        assert list(await asyncio.wait_for(both, 10)) == ["one", "two"]

    simulated_time.run(main())


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.7, 2.0, 6.0, 9.0, 14.0, 40.0]),
        st.integers(0, 2),
        st.sampled_from(["start", "start", "stop", "cut", "mend", "mend"]),
    ),
    max_size=40,
)


@given(actions=ACTIONS, seed=st.integers(0, 1000), late_seconds=st.sampled_from([0.0, 0.2, 3.0]))
def test_two_never_hold_it_at_once(actions: list[tuple[float, int, str]], seed: int, late_seconds: float) -> None:
    async def main() -> list[tuple[float, float]]:
        async with election(3, late_seconds, seed) as present:
            for seconds, number, action in actions:
                await asyncio.sleep(seconds)
                await _act(present.candidates[number], action)
            for each in present.candidates:
                each.line.cut = False
                each.start()
            await asyncio.sleep(60)
            usable = late_seconds < 1  # by a line that is later nobody can hold it for long
            assert not usable or any(each.since for each in present.candidates), "nobody holds it in the end"
            return present.history()

    history = simulated_time.run(main())
    for (_, ended), (began, _) in pairwise(history):
        assert ended <= began


async def _act(candidate: Candidate, action: str) -> None:
    match action:
        case "start":
            candidate.start()
        case "stop":
            await candidate.stop()
        case _:
            candidate.line.cut = action == "cut"


# beside a cluster-wide operator


def test_a_namespace_is_left_out_while_its_own_operator_lives() -> None:
    async def main() -> None:
        server = LeaseServer()
        line, changes = Line(server), 0

        def changed() -> None:
            nonlocal changes
            changes += 1

        async with lease.hold(line, [NAMESPACE], "cluster-wide"):
            neighbours = Neighbours(line, NAMESPACE)
            watching = asyncio.create_task(neighbours.watch(changed))
            await asyncio.sleep(60)
            assert neighbours.left_out == frozenset()
            own = Line(server)
            async with lease.hold(own, ["team"], "namespaced"):
                await asyncio.sleep(LOOK_SECONDS + 1)
                assert neighbours.left_out == {"team"}
                await asyncio.sleep(600)
                assert neighbours.left_out == {"team"}
                line.cut = True
                await asyncio.sleep(8)
                line.cut = False
                assert neighbours.left_out == {"team"}, "not knowing is no reason to act"
                own.cut = True  # its release does not arrive
            await asyncio.sleep(9)
            assert neighbours.left_out == {"team"}
            await asyncio.sleep(12)
            assert neighbours.left_out == frozenset()
            assert changes == 2
            watching.cancel()

    simulated_time.run(main())


def test_a_lease_that_was_released_leaves_out_nothing() -> None:
    async def main() -> None:
        line = Line(LeaseServer())
        async with lease.hold(line, ["team"], "namespaced"):
            pass
        neighbours = Neighbours(line, NAMESPACE)
        await neighbours.look()
        assert neighbours.left_out == frozenset()

    simulated_time.run(main())


@pytest.mark.parametrize(
    ("holder", "duration", "at", "fresh_seconds"),
    [
        ("x", 15, 110, 5),
        ("x", 15, 115, 0),
        ("x", 15, 200, 0),
        ("x", 40, 110, 30),
        ("x", None, 100, 0),
        ("", 15, 110, 0),
    ],
)
def test_how_long_a_lease_is_fresh(holder: str, duration: int | None, at: float, fresh_seconds: float) -> None:
    record = {"holderIdentity": holder, "leaseDurationSeconds": duration}
    assert lease.Sight(record, 100).fresh_seconds(at) == fresh_seconds
