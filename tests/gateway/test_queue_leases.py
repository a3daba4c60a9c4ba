"""Whoever is called in the queue has a place at an endpoint from then on, and gives it back whatever becomes of him."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm.endpoints import Endpoint, EndpointSet
from dp_vllm_gateway.config import Limits
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.lease import Lease
from dp_vllm_gateway.member import Member, Seen
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.queue import Called, Held, Queue, Turn
from dp_vllm_gateway.replies import Refusal
from dp_vllm_gateway.routing import held
from dp_vllm_gateway.routing.choice import Choice
from dp_vllm_gateway.routing.fair import Line

FACTS = Facts(tokens=100)


class Scene:
    """One healthy endpoint, and a queue before it that calls everybody once there is `room`."""

    def __init__(self, most: int = 4096) -> None:
        self.pool = Pool(connect_seconds=1, clock=asyncio.get_running_loop().time)
        self.pool.sync(EndpointSet(1, (Endpoint("0", "h:1"),)))
        self.pool.observe("0", "", Seen(healthy=True, certain=True, models=frozenset({"m"})))
        (self.member,) = self.pool.members()
        self.room = False
        self.replica_takes = False
        self.queue = Queue(
            Limits(max_queued_requests=most),
            to_go=self._to_go,
            anyway=lambda facts: Choice(self.member, "anyway") if self.replica_takes else None,
            lease=self._lease,
            next_room_at=lambda: None,
            retry_after_seconds=lambda _: 1,
        )

    def _to_go(self, line: Line[Called]) -> Sequence[tuple[Held, Choice[Member]]]:
        return [(entry, Choice(self.member, "room")) for entry in list(line.in_order())] if self.room else []

    def _lease(self, choice: Choice[Member], facts: Facts) -> Lease:
        return self.pool.lease(choice.picked, facts, reason=choice.reason)

    async def waiting(self, key: str = "", model: str | None = None) -> "asyncio.Task[Turn]":
        """A request that waits, unless it is refused at once."""
        loop = asyncio.get_running_loop()
        entry = held.entry(FACTS, [self.member], loop.time(), loop.create_future(), key=key)
        task = loop.create_task(self.queue.wait(model, entry))
        await asyncio.sleep(0)
        return task

    async def call(self) -> None:
        """Let the queue call whoever waits; nobody has gone yet."""
        self.room = True
        self.queue.room()
        await asyncio.sleep(0)

    def taken(self) -> tuple[int, int, int]:
        return self.queue.requests, self.member.requests, self.member.waiting_tokens


async def test_the_place_is_taken_before_who_was_called_can_go() -> None:
    scene = Scene()
    task = await scene.waiting()
    await scene.call()
    assert not task.done()
    assert scene.taken() == (0, 1, 100)
    with (await task).lease:
        assert scene.taken() == (0, 1, 100), "not twice"
    assert scene.taken() == (0, 0, 0)


async def test_who_leaves_at_the_moment_of_being_called_leaves_the_place_too() -> None:
    scene = Scene()
    task = await scene.waiting()
    await scene.call()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert scene.taken() == (0, 0, 0)


async def test_who_leaves_before_leaves_the_line() -> None:
    scene = Scene()
    task = await scene.waiting()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert scene.taken() == (0, 0, 0)
    await scene.call()
    assert scene.taken() == (0, 0, 0)


async def test_who_was_called_to_an_endpoint_that_leaves_this_moment_waits_on() -> None:
    scene = Scene()
    task = await scene.waiting()
    await scene.call()
    scene.room = False
    scene.member.available = False
    await asyncio.sleep(0)
    assert not task.done()
    assert scene.taken() == (1, 0, 0)
    scene.member.available = True
    await scene.call()
    with (await task).lease:
        assert scene.taken() == (0, 1, 100)


ARRIVALS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["m", "n"]), st.booleans()), max_size=30)


@given(ARRIVALS, st.integers(1, 6))
async def test_a_full_queue_takes_from_the_key_with_the_most_and_refuses_only_that(
    arrivals: list[tuple[str, str, bool]], most: int
) -> None:
    """Each arrives in turn, and after some of them the oldest one that waits leaves."""
    scene = Scene(most)
    tasks: list[tuple[str, asyncio.Task[Turn]]] = []
    for key, model, one_leaves in arrivals:
        before = Counter(key for key, task in tasks if not task.done())
        task = await scene.waiting(key, model)
        tasks.append((key, task))
        await asyncio.sleep(0)
        after = Counter(key for key, task in tasks if not task.done())
        assert scene.queue.requests == after.total() <= most
        if before.total() < most:
            assert after == before + Counter(key)
        elif task.done():
            assert before[key] + 1 >= max(before.values()) and after == before
        else:
            (loser,) = (before + Counter(key) - after).elements()
            assert before[loser] == max(before.values()) > before[key] + 1
        if one_leaves and (oldest := next((task for _, task in tasks if not task.done()), None)):
            oldest.cancel()
            await asyncio.sleep(0)
    for _, task in tasks:
        task.cancel()
    ends = await asyncio.gather(*(task for _, task in tasks), return_exceptions=True)
    refusals = [end for end in ends if isinstance(end, Refusal)]
    assert all((end.status, end.code) == (429, "queue_full") and end.headers["Retry-After"] for end in refusals)
    assert scene.taken() == (0, 0, 0)


async def test_what_a_full_queue_sends_on_all_the_same_is_the_next_one_in_line() -> None:
    scene = Scene(most=2)
    tasks = [await scene.waiting("many"), await scene.waiting("few")]
    scene.replica_takes = True
    tasks += [await scene.waiting("many"), await scene.waiting("many")]
    await asyncio.sleep(0)
    assert [task.done() for task in tasks] == [True, True, False, False]
    for task in tasks[:2]:
        task.result().lease.end()
    for task in tasks[2:]:
        task.cancel()
    await asyncio.gather(*tasks[2:], return_exceptions=True)
    assert scene.taken() == (0, 0, 0)


async def test_an_evicted_request_whose_client_leaves_that_moment_leaves_nothing_behind() -> None:
    scene = Scene(most=2)
    many = [await scene.waiting("many"), await scene.waiting("many")]
    loop = asyncio.get_running_loop()
    entry = held.entry(FACTS, [scene.member], loop.time(), loop.create_future(), key="few")
    few = loop.create_task(scene.queue.wait(None, entry))
    loop.call_soon(many[1].cancel)
    await asyncio.gather(many[1], return_exceptions=True)
    assert scene.queue.requests == 2
    assert scene.queue.evictions == 1
    for task in (many[0], few):
        task.cancel()
    await asyncio.gather(many[0], few, return_exceptions=True)
    assert scene.taken() == (0, 0, 0)


async def test_a_lease_whose_beginning_fails_is_not_counted_and_who_waits_for_it_hears_of_it() -> None:
    scene = Scene()

    def fails(member: Member, blocks: list[int], tokens: int) -> None:
        assert scene.taken()[1:] == (1, 100)
        raise OverflowError("it cannot be told")

    scene.pool.on_begin = fails
    with pytest.raises(OverflowError), scene.pool.lease(scene.member, FACTS):
        raise AssertionError("it was not begun")
    assert (*scene.taken(), scene.member.sequences) == (0, 0, 0, 0)
    task = await scene.waiting()
    await scene.call()
    with pytest.raises(OverflowError):
        await task
    assert (*scene.taken(), scene.member.sequences) == (0, 0, 0, 0)
