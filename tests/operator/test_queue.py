"""The queue of keys: nothing is done twice at once, nothing is forgotten, and failures come again ever later."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import simulated_time
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm.kubernetes_api import ApiError, Unreachable
from dp_vllm_operator import queue
from dp_vllm_operator.queue import Key, Keys

A, B = Key("default", "a"), Key("default", "b")


def keys(seed: int = 1) -> Keys:
    return Keys(rng=random.Random(seed))


def now() -> float:
    return asyncio.get_running_loop().time()


def ignore(succeeded: bool, seconds: float) -> None:
    """For who does not count."""


async def take(source: Keys) -> Key:
    """The next key, given back at once as done."""
    async with source.next() as turn:
        return turn.key


async def fail(source: Keys) -> float:
    """Fail at the next key; when it came."""
    with contextlib.suppress(ValueError):
        async with source.next():
            raise ValueError
    return now()


async def for_seconds(seconds: float, forever: Coroutine[Any, Any, Any]) -> None:
    """Let it run for so long."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(forever, seconds)


def test_a_key_that_is_added_twice_comes_once() -> None:
    async def main() -> None:
        source = keys()
        for key in (A, B, A, A):
            source.add(key)
        source.add_after(Key("default", "later"), 100_000)
        assert source.depth == 2
        assert [await take(source), await take(source)] == [A, B]
        assert source.depth == 0
        await for_seconds(10_000, take(source))

    simulated_time.run(main())


@pytest.mark.parametrize(("delays", "expected"), [((300, 10), 10), ((10, 300), 10), ((300, 0), 0), ((0, 300), 0)])
def test_the_earliest_wish_wins(delays: tuple[float, float], expected: float) -> None:
    async def main() -> None:
        source, began = keys(), now()
        for seconds in delays:
            source.add_after(A, seconds)
        assert await take(source) == A
        assert now() - began == pytest.approx(expected)
        source.add_after(B, 5)  # the later of the two wishes is not fulfilled as well
        assert await take(source) == B

    simulated_time.run(main())


def test_who_waits_for_a_distant_key_gets_one_that_comes_before() -> None:
    async def main() -> None:
        source = keys()
        source.add_after(A, 300)
        waiting = asyncio.create_task(take(source))
        await asyncio.sleep(1)
        source.add(B)
        assert await waiting == B
        assert await take(source) == A

    simulated_time.run(main())


def test_a_key_that_is_added_while_it_is_worked_on_comes_again_after() -> None:
    async def main() -> None:
        source = keys()
        source.add(A)
        async with source.next() as turn:
            source.add(turn.key)
            assert source.depth == 0
            await for_seconds(100, take(source))
            turn.again_seconds = 50
        assert source.depth == 1
        ended = now()
        assert await take(source) == A
        assert now() == ended

    simulated_time.run(main())


def test_a_key_comes_again_when_its_work_asked_for_it() -> None:
    async def main() -> None:
        source, began = keys(), now()
        source.add(A)
        async with source.next() as turn:
            turn.again_seconds = 15
        assert await take(source) == A
        assert now() - began == pytest.approx(15)

    simulated_time.run(main())


def test_failures_of_a_key_wait_twice_as_long_each_time_until_five_minutes() -> None:
    async def main() -> None:
        source = keys()
        source.add(A)
        times = [await fail(source) for _ in range(12)]
        for failures, (earlier, later) in enumerate(pairwise(times)):
            longest = min(2.0**failures, 300)
            assert longest / 2 <= later - earlier <= longest + 0.001
        source.add(A)  # whoever wants it now gets it now
        assert await take(source) == A
        assert now() == times[-1]
        source.add(A)
        await fail(source)
        assert await take(source) == A
        assert now() - times[-1] <= 1.001, "a success did not make the failures forgotten"

    simulated_time.run(main())


def test_keys_that_fail_together_do_not_come_back_together() -> None:
    async def main() -> None:
        source = keys()
        many = [Key("default", str(number)) for number in range(20)]
        for key in many:
            source.add(key)
            await fail(source)
        assert len({await fail(source) for _ in many}) == len(many)

    simulated_time.run(main())


def test_a_turn_that_is_cancelled_is_given_back() -> None:
    async def main() -> None:
        source = keys()
        source.add(A)

        async def forever() -> None:
            async with source.next():
                await asyncio.Event().wait()

        task = asyncio.create_task(forever())
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        before = now()
        assert await take(source) == A
        assert now() == before

    simulated_time.run(main())


def test_it_tells_for_how_long_the_slowest_has_been_at_work() -> None:
    async def main() -> None:
        source = keys()
        assert source.oldest_working(now()) == 0
        source.add(A)
        source.add_after(B, 20)
        async with source.next(), source.next():
            await asyncio.sleep(100)
            assert source.oldest_working(now()) == pytest.approx(120)
        assert source.oldest_working(now()) == 0

    simulated_time.run(main())


# work


@dataclass
class Tally:
    """What `work` told: how each reconcile ended, and after how many seconds."""

    ends: list[tuple[bool, int]] = field(default_factory=list)

    def finished(self, succeeded: bool, seconds: float) -> None:
        self.ends.append((succeeded, round(seconds)))


def work_for(seconds: float, reconcile: Callable[[Key], Awaitable[float | None]], *, limit: float = 60) -> Tally:
    """Work on one key for so long."""

    async def main() -> Tally:
        source, tally = keys(), Tally()
        source.add(A)
        await for_seconds(seconds, queue.work(source, reconcile, workers=2, finished=tally.finished, seconds=limit))
        return tally

    return simulated_time.run(main())


def test_work_looks_again_as_often_as_asked() -> None:
    async def reconcile(key: Key) -> float | None:
        await asyncio.sleep(2)
        return 8

    assert work_for(95, reconcile).ends == [(True, 2)] * 10


@pytest.mark.parametrize("error", [ApiError(500, "InternalError", "etcd is away"), Unreachable("GET /x: refused")])
def test_a_refusal_is_one_line_of_the_log(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def reconcile(key: Key) -> float | None:
        raise error

    assert work_for(0.3, reconcile).ends == [(False, 0)]
    assert [(record.getMessage(), record.exc_info) for record in caplog.records] == [(f"default/a: {error}", None)]


def test_a_bug_is_logged_with_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    async def reconcile(key: Key) -> float | None:
        raise KeyError("spec")

    work_for(0.3, reconcile)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and record.getMessage() == "default/a: 'spec'"
    assert record.exc_info is not None and record.exc_info[0] is KeyError


def test_a_reconcile_that_hangs_is_given_up_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def reconcile(key: Key) -> float | None:
        await asyncio.Event().wait()
        raise AssertionError

    assert work_for(100, reconcile, limit=45).ends == [(False, 45)] * 2
    assert caplog.messages == ["default/a: not done after 45 s"] * 2


def test_one_key_that_fails_holds_up_no_other() -> None:
    async def main() -> list[Key]:
        source, seen = keys(), list[Key]()

        async def reconcile(key: Key) -> float | None:
            if key == A:
                raise Unreachable("GET /x: refused")
            seen.append(key)
            return 1

        source.add(A)
        source.add(B)
        await for_seconds(59.5, queue.work(source, reconcile, workers=1, finished=ignore))
        return seen

    assert len(simulated_time.run(main())) == 60


@dataclass(frozen=True)
class Wish:
    """Somebody wants a key looked at."""

    at: float
    key: Key
    after: float


@dataclass(frozen=True)
class Turn:
    """A reconcile as it was."""

    key: Key
    began: float
    ended: float


WISHES = st.lists(
    st.builds(
        Wish,
        at=st.integers(0, 50).map(float),
        key=st.sampled_from([A, B, Key("other", "a")]),
        after=st.sampled_from([0.0, 0.0, 3.0, 30.0]),
    ),
    min_size=1,
    max_size=30,
)
OUTCOMES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 4.0]), st.sampled_from(["done", "again", "fail"])), max_size=20
)


@given(wishes=WISHES, outcomes=OUTCOMES, workers=st.integers(1, 4))
def test_every_wish_is_fulfilled_and_no_key_is_worked_on_twice_at_once(
    wishes: list[Wish], outcomes: list[tuple[float, str]], workers: int
) -> None:
    turns, asked = simulated_time.run(_play(wishes, outcomes, workers))
    for key in {turn.key for turn in turns}:
        ours = [turn for turn in turns if turn.key == key]
        assert all(earlier.ended <= later.began for earlier, later in pairwise(ours))
    assert max(sum(t.began <= turn.began < t.ended for t in turns) for turn in turns) <= workers
    assert len(turns) <= asked
    for wish in wishes:
        assert any(turn.key == wish.key and turn.began >= wish.at for turn in turns)
        if workers >= 3:  # as many as keys: nothing but its own work keeps a key waiting
            due = wish.at + wish.after
            free = max([due, *(turn.ended for turn in turns if turn.key == wish.key and turn.began <= due)])
            assert any(turn.key == wish.key and wish.at <= turn.began <= free + 1e-6 for turn in turns)


async def _play(wishes: list[Wish], outcomes: list[tuple[float, str]], workers: int) -> tuple[list[Turn], int]:
    """The turns that were taken, in the order of their begin, and how many there were reasons for."""
    source, turns, left = keys(), list[Turn](), list(outcomes)
    began, asked = now(), len(wishes)

    async def reconcile(key: Key) -> float | None:
        nonlocal asked
        takes, outcome = left.pop() if left else (0.0, "done")
        start = now() - began
        asked += outcome != "done"
        await asyncio.sleep(takes)
        turns.append(Turn(key, start, now() - began))
        if outcome == "fail":
            raise Unreachable("refused")
        return 7.0 if outcome == "again" else None

    async def wish_all() -> None:
        for wish in sorted(wishes, key=lambda wish: wish.at):
            await asyncio.sleep(began + wish.at - now())
            source.add_after(wish.key, wish.after)

    working = queue.work(source, reconcile, workers=workers, finished=ignore)
    await asyncio.gather(wish_all(), for_seconds(2000, working))
    return sorted(turns, key=lambda turn: turn.began), asked
