"""What would have become of a trace's requests: simulated engines behind the gateway's own decision, in no time.

Time is a number here. The engines are `dp_vllm.sim`'s, which are told the time; who answers a request is decided by the
gateway's own `Router`, which sees what the gateway's own `Pool` counts: a prompt waits until its first token is there,
a sequence is in flight to its last; what no engine should have yet waits in the gateway's own `Line`. Left out is all
that is between them: the gateway's milliseconds, connections, failures, clients that leave. Blocks that an answer has
filled take room in a cache, but nobody finds them: a trace does not say which prompt goes on with which answer.

The same trace, sizes and seed have the same course every time.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, NamedTuple

from dp_vllm.endpoints import Endpoint, EndpointSet
from dp_vllm.errors import UserError
from dp_vllm.policy import AHEAD_SECONDS, BY_WAIT, PREFIX_WEIGHT, Policy
from dp_vllm.replay.trace import Request
from dp_vllm.sim import kv
from dp_vllm.sim.engine import Engine, Limits, Pace
from dp_vllm.sim.reply import Reply
from dp_vllm.sim.sequence import Sequence
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.lease import Lease
from dp_vllm_gateway.member import Member, Seen
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.routing import held
from dp_vllm_gateway.routing.choice import Choice
from dp_vllm_gateway.routing.fair import Line
from dp_vllm_gateway.routing.router import Router

START_SECONDS: Final = 1.0
"""When a replay begins. The pool's times are never 0."""

MAX_NUM_SEQS: Final = 256
MAX_NUM_BATCHED_TOKENS: Final = 8192
"""Both as in vLLM on one large GPU, by default."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What each of the engines is like, and how many there are."""

    replicas: int
    block_tokens: int
    kv_blocks: int
    """KV cache of each engine."""
    pace: Pace

    def limits(self) -> Limits:
        """The same in the engine's words."""
        room = self.kv_blocks * self.block_tokens
        return Limits(MAX_NUM_SEQS, MAX_NUM_BATCHED_TOKENS, room, self.block_tokens, self.kv_blocks, True)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request as the gateway and an engine see it."""

    at_seconds: float
    facts: Facts
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request. Times are seconds after it came."""

    replica: str
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt's tokens, those that its engine had in its cache."""
    completion_tokens: int
    first_seconds: float
    total_seconds: float
    believed_tokens: int = 0
    """Of the prompt's tokens, those that the gateway took to be cached when it chose."""


def arrivals(requests: Iterable[Request], sizes: Sizes, *, speed: float = 1.0, first: int = 0) -> list[Arrival]:
    """The requests, `speed` times faster than they came.

    Raises UserError for one that no engine could hold; `first` is the number of the first of them in their trace.
    """
    found = []
    for number, request in enumerate(requests, first):
        tokens = request.prompt_tokens + request.completion_tokens
        if (need := -(-tokens // sizes.block_tokens)) > sizes.kv_blocks:
            raise UserError(
                f"--kv-blocks {sizes.kv_blocks}: request {number} needs {need} blocks for its {tokens} tokens; "
                "say more, or leave it out with --from and --to"
            )
        found.append(Arrival(request.at_seconds / speed, _facts(request, sizes), max(1, request.completion_tokens)))
    return found


def _facts(request: Request, sizes: Sizes) -> Facts:
    chain = list(itertools.accumulate(request.blocks, _link, initial=kv.root()))[1:]
    full = request.prompt_tokens // sizes.block_tokens
    return Facts(
        stream=True,
        tokens=request.prompt_tokens,
        blocks=chain[:full],
        block_tokens=float(sizes.block_tokens),
        affinity=chain[0] if chain else 0,
    )


def _link(parent: int, block: int) -> int:
    return kv.link(parent, b"%d" % block)


class Fleet:
    """Engines behind one gateway, for one replay."""

    def __init__(
        self,
        sizes: Sizes,
        policy: Policy,
        *,
        prefix_weight: float = PREFIX_WEIGHT,
        ahead_seconds: float = AHEAD_SECONDS,
        seed: int = 0,
    ) -> None:
        """`ahead_seconds`: how much of reading an engine may have ahead, if the policy goes by that."""
        self._now = START_SECONDS
        self._router = Router(policy, prefix_weight=prefix_weight, rng=random.Random(seed))  # noqa: S311 - no secret
        ahead_seconds = ahead_seconds if policy in BY_WAIT else math.inf
        self._pool = asyncio.run(_pool(sizes, lambda: self._now, ahead_seconds))
        self._line: Line[_Waiting] = Line()
        self._members = self._pool.members()
        self._engines = [Engine(sizes.limits(), sizes.pace) for _ in self._members]
        self._at_work = [False] * len(self._engines)
        self._steps: list[tuple[float, int]] = []
        """When whose step under way ends, the next one first."""
        self._ended: list[Answer] = []

    @property
    def in_flight(self) -> int:
        """Requests that the gateway has sent on and that have no whole answer."""
        return self._pool.in_flight

    def run(self, coming: Iterable[Arrival]) -> Iterator[Answer]:
        """Each answer when it ends. A fleet runs once."""
        for number, arrival in enumerate(coming):
            yield from self._until(START_SECONDS + arrival.at_seconds)
            self._now = START_SECONDS + arrival.at_seconds
            self._send(arrival, number)
        yield from self._until(math.inf)

    def _until(self, end: float) -> Iterator[Answer]:
        """All steps that end by then. A request that comes at the same moment finds them over."""
        while self._steps and self._steps[0][0] <= end:
            self._now, number = heapq.heappop(self._steps)
            self._engines[number].finish(self._now)
            self._begin(number)  # before it hears of what was held back: the gateway hears of the step's end only now
            self._call()
            if self._ended:
                yield from self._ended
                self._ended.clear()

    def _begin(self, number: int) -> None:
        seconds = self._engines[number].begin(self._now)
        self._at_work[number] = seconds is not None
        if seconds is not None:
            heapq.heappush(self._steps, (self._now + seconds, number))

    def _send(self, arrival: Arrival, seed: int) -> None:
        facts = arrival.facts
        waiting = _Waiting(self._now, seed, arrival.completion_tokens)
        choice = None if self._line else self._router.choose(self._pool.candidates(facts), facts)
        if choice is not None and self._pool.fits(choice.picked, facts.tokens - choice.cached_tokens):
            self._give(facts, waiting, choice)
            return
        self._line.join(held.entry(facts, self._members, self._now, waiting))
        self._call()

    def _call(self) -> None:
        """Send those on who wait and may go."""
        if self._line and (crowd := self._pool.prospects(Facts())):
            for entry, choice in held.to_go(self._line, crowd, self._router.choose, self._pool.ahead_seconds):
                self._line.take(entry)
                self._give(entry.facts, entry.waiting, choice)

    def _give(self, facts: Facts, waiting: _Waiting, choice: Choice[Member]) -> None:
        lease = self._pool.lease(choice.picked, facts, reason=choice.reason, cached_tokens=choice.cached_tokens)
        prompt = array("I", bytes(facts.tokens * array("I").itemsize))
        reply = Reply("", waiting.seed, waiting.completion_tokens, "length")
        number = self._members.index(choice.picked)
        client = _Client(lease, choice.cached_tokens, waiting.since, self._ended)
        self._engines[number].add([Sequence(prompt, reply, client, list(facts.blocks))], self._now)
        if not self._at_work[number]:
            self._begin(number)


class _Waiting(NamedTuple):
    """What of a request nobody decides by."""

    since: float
    seed: int
    completion_tokens: int


class _Client:
    """Who hears a request's answer: the lease, as from the gateway's connection, and whoever asks what became of it."""

    def __init__(self, lease: Lease, believed_tokens: int, since: float, ended: list[Answer]) -> None:
        self._leased = ExitStack()
        self._lease = self._leased.enter_context(lease)
        self._believed = believed_tokens
        self._since = since
        self._ended = ended

    def token(self, sequence: Sequence) -> None:
        if sequence.generated == 1:
            self._lease.answering()

    def end(self, sequence: Sequence) -> None:
        if sequence.generated == 1:  # its first token is its last
            self._lease.answering()
        self._leased.close()
        first, total = sequence.first_at - self._since, sequence.last_at - self._since
        name, length = self._lease.member.name, len(sequence.prompt)
        self._ended.append(Answer(name, length, sequence.cached, sequence.generated, first, total, self._believed))


async def _pool(sizes: Sizes, clock: Callable[[], float], ahead_seconds: float = math.inf) -> Pool:
    """Replicas that are known and healthy. Connections, of which none is ever opened, have to be made by a task."""
    pool = Pool(connect_seconds=1.0, clock=clock, ahead_seconds=ahead_seconds)
    names = [str(number) for number in range(sizes.replicas)]
    pool.sync(EndpointSet(1, tuple(Endpoint(name, "") for name in names)))
    for name in names:
        pool.observe(name, "", Seen(healthy=True, certain=True))
    for member in pool.members():
        member.remembered.capacity = sizes.kv_blocks
    return pool
