"""Whoever is called in the queue has a place at an endpoint from then on, and gives it back whatever becomes of him."""

import asyncio
from collections.abc import Sequence

import pytest

from dp_vllm.endpoints import Endpoint, EndpointSet
from dp_vllm_gateway.config import Limits
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.lease import Lease
from dp_vllm_gateway.member import Member, Seen
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.queue import Called, Held, Queue, Turn
from dp_vllm_gateway.routing import held
from dp_vllm_gateway.routing.choice import Choice
from dp_vllm_gateway.routing.fair import Line

FACTS = Facts(tokens=100)


class Scene:
    """One healthy endpoint, and a queue before it that calls everybody once there is `room`."""

    def __init__(self) -> None:
        self.pool = Pool(connect_seconds=1, clock=asyncio.get_running_loop().time)
        self.pool.sync(EndpointSet(1, (Endpoint("0", "h:1"),)))
        self.pool.observe("0", "", Seen(healthy=True, certain=True, models=frozenset({"m"})))
        (self.member,) = self.pool.members()
        self.room = False
        self.queue = Queue(
            Limits(), to_go=self._to_go, lease=self._lease, next_room_at=lambda: None, retry_after_seconds=lambda _: 1
        )

    def _to_go(self, line: Line[Called]) -> Sequence[tuple[Held, Choice[Member]]]:
        return [(entry, Choice(self.member, "room")) for entry in list(line.in_order())] if self.room else []

    def _lease(self, choice: Choice[Member], facts: Facts) -> Lease:
        return self.pool.lease(choice.picked, facts, reason=choice.reason)

    async def waiting(self) -> "asyncio.Task[Turn]":
        """Somebody who waits."""
        loop = asyncio.get_running_loop()
        entry = held.entry(FACTS, [self.member], loop.time(), loop.create_future())
        task = loop.create_task(self.queue.wait(None, entry, anyway=lambda: None))
        await asyncio.sleep(0)
        assert self.queue.requests == 1
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
