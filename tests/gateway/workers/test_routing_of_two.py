"""What routing gains does not get lost between workers: a published trace, in counted time.

The workers' own parts decide and count here (`Router`, `Pool`, `Others`); that their news take a moment is imitated.
"""

import asyncio
import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dp_vllm.policy import AHEAD_SECONDS, Policy
from dp_vllm.replay import fleet, report, source
from dp_vllm.replay.fleet import Answer, Arrival, Fleet, Sizes
from dp_vllm.replay.report import Row
from dp_vllm.sim.engine import Pace
from dp_vllm_gateway.member import NOWHERE, Member
from dp_vllm_gateway.routing.fair import Line
from dp_vllm_gateway.routing.router import Router
from dp_vllm_gateway.workers.gossip import LATER_SECONDS
from dp_vllm_gateway.workers.news import Load, Standing
from dp_vllm_gateway.workers.others import Others

TRACE = Path(__file__).parents[3] / "bench/traces/mooncake_conversation_3000-4000.jsonl.gz"

APART_SECONDS = 0.0005
"""At least so long after another a request comes: the trace's times are rounded, and reading one takes a moment."""

ARRIVES_SECONDS = 0.0001
"""How long news are on their way."""


class Workers(Fleet):
    """Engines behind several workers, of which chance names one for each request."""

    def __init__(self, sizes: Sizes, count: int, *, seed: int) -> None:
        super().__init__(sizes, Policy.PREFIX)
        self._rng = random.Random(seed)
        self._worker = 0
        self._pools = [
            self._pool,
            *(asyncio.run(fleet._pool(sizes, lambda: self._now, AHEAD_SECONDS)) for _ in range(count - 1)),
        ]
        self._lines = [self._line, *(Line[fleet._Waiting]() for _ in range(count - 1))]
        self._routers = [Router(Policy.PREFIX, rng=random.Random(number)) for number in range(count)]
        self._others = [Others() for _ in range(count)]
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        for worker, pool in enumerate(self._pools):
            pool.on_begin = lambda member, blocks, _, worker=worker: self._speak(worker, member, blocks)
            pool.on_less = lambda worker=worker: self._after(LATER_SECONDS, lambda: self._speak(worker))

    def _after(self, seconds: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self._now + seconds, next(self._numbers), happens))

    def _speak(self, worker: int, member: Member | None = None, blocks: list[int] | None = None) -> None:
        members = self._pools[worker].members()
        standing = Standing(loads=tuple(Load(it.name, "", *it.own) for it in members if it.own != NOWHERE))

        def arrives() -> None:
            for listener, pool in enumerate(self._pools):
                if listener == worker:
                    continue
                self._others[listener].hear(worker, standing, self._now)
                pool.count_elsewhere(self._others[listener].elsewhere(self._now), in_line=0)
                if member is not None and (same := pool.member(member.name)) and blocks:
                    same.remembered.add(blocks)

        self._after(ARRIVES_SECONDS, arrives)

    def _until(self, end: float) -> Iterator[Answer]:
        while True:
            step = self._steps[0][0] if self._steps else math.inf
            due = self._due[0][0] if self._due else math.inf
            if min(step, due) > end or step == due == math.inf:
                return
            if due <= step:
                self._now, _, happens = heapq.heappop(self._due)
                happens()
            else:
                yield from super()._until(step)

    def _send(self, arrival: Arrival, seed: int) -> None:
        self._be(self._rng.randrange(len(self._pools)))
        super()._send(arrival, seed)

    def _call(self) -> None:
        now = self._worker
        for worker in self._rng.sample(range(len(self._pools)), len(self._pools)):
            self._be(worker)
            super()._call()
        self._be(now)

    def _be(self, worker: int) -> None:
        self._worker = worker
        self._pool, self._router, self._line = self._pools[worker], self._routers[worker], self._lines[worker]
        self._members = self._pool.members()


def replayed(count: int, seed: int) -> Row:
    requests, block_tokens = source.read(str(TRACE), None)
    sizes = Sizes(4, block_tokens, 6000, Pace(15_000.0, 0.02, 0.0001))
    coming, earliest = [], 0.0
    for arrival in fleet.arrivals(requests, sizes):
        coming.append(replace(arrival, at_seconds=max(arrival.at_seconds, earliest)))
        earliest = coming[-1].at_seconds + APART_SECONDS
    answers = list(Workers(sizes, count, seed=seed).run(coming))
    assert len(answers) == len(requests)
    return report.row(answers, 1.0)


@pytest.mark.exhaustive
def test_hits_and_first_tokens_are_those_of_one_process() -> None:
    one, two = replayed(1, 0), [replayed(2, seed) for seed in range(2)]
    assert sum(row.hit_rate for row in two) / 2 > 0.97 * one.hit_rate
    assert sum(row.first_mean_seconds for row in two) / 2 < 1.03 * one.first_mean_seconds
    assert sum(row.first_p99_seconds for row in two) / 2 < 1.03 * one.first_p99_seconds
