"""Makes a worker part of its gateway: tells the others what it does, takes in what they do, and answers for all.

Or a gateway part of those of its model: then each of the others is a *worker* here, and answers for itself alone.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dp_vllm_gateway.broadcast import Broadcasts
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.homes import Homes
from dp_vllm_gateway.lasting import Change
from dp_vllm_gateway.member import NOWHERE, Member
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.queue import Queue
from dp_vllm_gateway.routing.blocks import MOST_BLOCKS
from dp_vllm_gateway.routing.load import PREFILL_TOKENS_PER_SECOND, STEP_SECONDS
from dp_vllm_gateway.workers import news, sums
from dp_vllm_gateway.workers.gossip import Gossip
from dp_vllm_gateway.workers.news import Fact, News, Standing
from dp_vllm_gateway.workers.others import Others
from dp_vllm_gateway.workers.wires import Wires

ANSWER_SECONDS: Final = 0.5
"""How long others are waited for that are asked something."""

LOOK_SECONDS: Final = 0.5
"""How often it is looked who has fallen silent."""

LONG_TOKENS: Final = int(PREFILL_TOKENS_PER_SECOND * STEP_SECONDS)
"""A longer prompt takes an engine more than a step: two of them should not go to one replica by mistake."""

METRICS: Final = "metrics"
DECISIONS: Final = "decisions"


@dataclass(slots=True)
class _Question:
    """Something that all the others were asked."""

    waited_for: set[int]
    answers: dict[int, bytes] = field(default_factory=dict)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, worker: int, answer: bytes) -> None:
        if worker in self.waited_for:
            self.answers[worker] = answer
            self.give_up(worker)

    def give_up(self, worker: int) -> None:
        self.waited_for.discard(worker)
        if not self.waited_for:
            self.done.set()


class Team:
    """Owns what this worker knows of the others. To be made within a running event loop."""

    def __init__(
        self,
        wires: Wires,
        pool: Pool,
        queue: Queue,
        homes: Homes,
        broadcasts: Broadcasts,
        answers: Mapping[str, Callable[[], bytes]],
    ) -> None:
        """`answers` says what this worker answers when it is asked for a thing; those who are not asked need none."""
        self._pool = pool
        self._queue = queue
        self._homes = homes
        self._broadcasts = broadcasts
        self._answers = answers
        self._others = Others()
        self.errors = wires.errors
        self._questions: dict[int, _Question] = {}
        # Not those of a former life, whose questions may still be answered.
        self._numbers = itertools.count(random.getrandbits(32))
        self._counted: dict[int, bytes] = {}
        """By worker: what it had counted when somebody last saw it."""
        self._former = b""
        """What had been counted in this worker's place before it."""
        self._loop = asyncio.get_running_loop()
        self._gossip = Gossip(wires, standing=self._standing, hear=self._listen)
        pool.on_look = self._listen_before
        pool.on_begin = self._tell_begun
        pool.on_less = self._gossip.later
        homes.on_learned = self._tell_home
        broadcasts.on_change = self._tell_change

    async def run(self) -> None:
        """Be one of the workers until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._gossip.run())
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                self._count()

    def join(self) -> None:
        """Say that this worker begins: the others tell it what they know."""
        self._gossip.join()

    # what is told

    def tell_forgotten(self) -> None:
        """All prefix caches were emptied through this worker."""
        self._tell_now(news.Forgotten())

    def _tell_begun(self, member: Member, blocks: list[int], tokens: int) -> None:
        """Of a long prompt the others know before their next decision, as they listen before it."""
        if blocks:
            self._gossip.tell(news.Sent(member.name, member.endpoint.incarnation, blocks))
        if tokens > LONG_TOKENS:
            self._gossip.speak()
        else:
            self._gossip.soon()

    def _tell_home(self, response: str, replica: str) -> None:
        self._tell_now(news.Homes({response: replica}))

    def _tell_change(self, change: Change) -> None:
        self._tell_now(news.Changed(*change))

    def _tell_now(self, fact: Fact) -> None:
        """Before a client knows of it, who may ask another worker next."""
        self._gossip.tell(fact)
        self._gossip.speak()

    def _standing(self) -> Standing:
        now = self._loop.time()
        next_end = self._pool.end_prefills(now)
        if next_end is not None:
            self._gossip.later(next_end - now)
        pool = self._pool
        loads = tuple(_load(member) for member in pool.members() if member.own != NOWHERE)
        return Standing(pool.generation, pool.in_flight, self._queue.requests, loads)

    def _welcome(self, worker: int) -> None:
        """Tell a new worker all that it cannot see by itself."""
        if counted := self._counted.get(worker):
            self._gossip.tell(news.Counted(counted), to=worker)
        for change in self._broadcasts.changes():
            self._gossip.tell(news.Changed(*change), to=worker)
        homes = iter(self._homes.all().items())
        while some := dict(itertools.islice(homes, news.MOST_HOMES)):
            self._gossip.tell(news.Homes(some), to=worker)
        for member in self._pool.members():
            blocks = member.remembered.blocks()
            for start in reversed(range(0, len(blocks), MOST_BLOCKS)):  # those unused for longest first
                piece = blocks[start : start + MOST_BLOCKS]
                self._gossip.tell(news.Sent(member.name, member.endpoint.incarnation, piece), to=worker)
        self._gossip.soon()

    # what is heard

    def _listen_before(self, facts: Facts) -> None:
        """Before a decision for a long prompt hear what others have just said; for a short one it is near enough."""
        if facts.tokens > LONG_TOKENS:
            self._gossip.listen()

    def _listen(self, heard: Sequence[News]) -> None:
        now = self._loop.time()
        for each in heard:
            if each.standing is not None:
                self._others.hear(each.worker, each.standing, now)
                self._gossip.meet(each.worker)
            for fact in each.facts:
                try:
                    self._take(each.worker, fact)
                except Exception as error:  # whatever it is: a message ends no process
                    self.errors.add("applied", error)
        self._count()

    def _take(self, worker: int, fact: Fact) -> None:
        match fact:
            case news.Sent(replica, incarnation, blocks):
                member = self._pool.member(replica)
                if member is not None and member.endpoint.incarnation == incarnation:
                    member.remembered.add(blocks)
            case news.Homes(homes):
                self._homes.put(homes)
            case news.Forgotten():
                self._pool.forget_prefixes()
            case news.Changed(method, target, lines, body):
                self._broadcasts.note(Change(method, target, lines, body))
            case news.Joined():
                self._welcome(worker)
            case news.Died(dead):
                self._bury(dead)
            case news.Counted(text):
                self._former = sums.greatest(self._former, text)
            case _:
                self._talk(worker, fact)

    def _talk(self, worker: int, fact: Fact) -> None:
        match fact:
            case news.Asked(number, thing, answer):
                if thing == METRICS:
                    self._counted[worker] = sums.counters(answer)
                self._gossip.tell(news.Answered(number, self._answer(thing)), to=worker)
                self._gossip.speak()
            case news.Answered(number, answer):
                if number in self._questions:
                    self._questions[number].answer(worker, answer)

    def _bury(self, worker: int) -> None:
        self._others.died(worker)
        self._gossip.leave(worker)
        for question in self._questions.values():
            question.give_up(worker)

    def _count(self) -> None:
        now = self._loop.time()
        self._pool.count_elsewhere(self._others.elsewhere(now), in_line=self._others.in_line(now))

    # what is answered for all

    def standings(self) -> list[Standing]:
        """How each of the others stands, by its last word."""
        return self._others.standings()

    async def metrics(self) -> bytes:
        """The own series of all workers. What one counted that died or does not answer stays counted."""
        own = self._answer(METRICS)
        answers = await self._ask(METRICS, own)
        self._counted |= {worker: sums.counters(answer) for worker, answer in answers.items()}
        missing = [counted for worker, counted in self._counted.items() if worker not in answers]
        return sums.total([own, *answers.values(), *missing]) + sums.workers(1 + len(answers))

    async def decisions(self) -> list[bytes]:
        """What each of the workers answers, this one first."""
        answers = await self._ask(DECISIONS, b"")
        return [self._answer(DECISIONS), *answers.values()]

    def _answer(self, thing: str) -> bytes:
        answer = self._answers[thing]()
        if thing == METRICS and self._former:
            replicas = {member.name for member in self._pool.members()}
            return sums.total([answer, sums.of_replicas(self._former, replicas)])
        return answer

    async def _ask(self, thing: str, own: bytes) -> dict[int, bytes]:
        """What the others answer in time, when they are told what this worker would."""
        question = _Question(self._others.alive())
        if not question.waited_for:
            return {}
        number = next(self._numbers)
        self._questions[number] = question
        try:
            self._tell_now(news.Asked(number, thing, own))
            async with asyncio.timeout(ANSWER_SECONDS):
                await question.done.wait()
        except TimeoutError:
            pass
        finally:
            del self._questions[number]
        return question.answers


def _load(member: Member) -> news.Load:
    return news.Load(member.name, member.endpoint.incarnation, *member.own)
