"""Says when the others are told what. It knows nothing of what that means, nor of what carries it (`wires`).

Facts of one moment go together, and with them how the worker stands. What the wires have taken arrives; that for which
there is no room is sent later. One that was not heard, since this worker began or since it died, is told no more than
that this worker is there.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from dp_vllm_gateway.workers import news
from dp_vllm_gateway.workers.news import Fact, Standing
from dp_vllm_gateway.workers.wires import Hear, Wires

SPACING_SECONDS: Final = 0.005
"""What is told soon is told no more often than this: a quarter of an engine's step."""

LATER_SECONDS: Final = 0.02
"""Within what time that is told which can wait: an engine's step."""

AGAIN_SECONDS: Final = 0.01
"""When it is tried again to tell a worker that had no room."""

TICK_SECONDS: Final = 0.5
"""How often a worker speaks that has nothing to tell."""

MOST_WAITING: Final = 20_000
MOST_WAITING_BYTES: Final = 64 << 20
"""Facts for one worker that does not take them; the oldest go first."""


class Backlog:
    """Facts that one of the others is yet to be sent. Bounded: the oldest are dropped for new ones."""

    def __init__(self) -> None:
        self._facts: deque[msgspec.Raw] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._facts)

    def add(self, facts: Sequence[msgspec.Raw]) -> None:
        """These are to be sent too."""
        waiting = self._facts
        waiting.extend(facts)
        self._bytes += sum(map(len, facts))
        while len(waiting) > MOST_WAITING or self._bytes > MOST_WAITING_BYTES:
            self._bytes -= len(waiting.popleft())

    def take(self) -> list[msgspec.Raw]:
        """As many as go into one message, the oldest first."""
        facts = news.take(self._facts)
        self._bytes -= sum(map(len, facts))
        return facts

    def put_back(self, facts: Sequence[msgspec.Raw]) -> None:
        """These were taken, and could not be sent."""
        self._facts.extendleft(reversed(facts))
        self._bytes += sum(map(len, facts))


class Gossip:
    """Owns what is yet to be told."""

    def __init__(self, wires: Wires, *, standing: Callable[[], Standing], hear: Hear) -> None:
        self._wires = wires
        self._standing = standing
        self._hear = hear
        self._waiting: dict[int, Backlog] = {}
        """What each of the others that is there is yet to be told."""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._spoke_at = 0.0

    async def run(self) -> None:
        """Listen, and speak now and then, until cancelled."""
        self._wires.open(self._hear, self._greet)
        try:
            while True:
                self.speak()
                self._greet()
                await asyncio.sleep(TICK_SECONDS)
        finally:
            self._wires.close()
            self._stop_timer()

    def join(self) -> None:
        """Begin: what was told to a former life is not read, and all that are there are told of this one."""
        self._wires.drain()
        self._greet()

    def meet(self, worker: int) -> None:
        """A worker is there: it is told things from now on."""
        self._waiting.setdefault(worker, Backlog())

    def leave(self, worker: int) -> None:
        """A worker is no more."""
        self._waiting.pop(worker, None)

    def tell(self, fact: Fact, *, to: int | None = None) -> None:
        """Tell all the others, or one, when this worker speaks next. One that was not met is told nothing."""
        if not self._waiting:
            return
        try:
            written = news.written(fact)
        except (ValueError, OverflowError) as error:
            self._wires.errors.add("written", error)
            return
        for worker in self._waiting if to is None else self._waiting.keys() & {to}:
            self._waiting[worker].add(written)

    def soon(self) -> None:
        """Speak now, unless this worker has spoken just before."""
        if self._loop.time() >= self._spoke_at + SPACING_SECONDS:
            self.speak()
        else:
            self.later(0.0)

    def later(self, seconds: float = LATER_SECONDS) -> None:
        """Speak within so many seconds."""
        at = max(self._loop.time() + seconds, self._spoke_at + SPACING_SECONDS)
        if at < self._timer_at:
            self._stop_timer()
            self._timer_at = at
            self._timer = self._loop.call_at(at, self.speak)

    def speak(self) -> None:
        """Tell each of the others how this worker stands, and what there is for it."""
        self._stop_timer()
        self._spoke_at = self._loop.time()
        if not self._waiting:
            return
        standing = self._standing_written()
        if standing is None:
            return
        for worker in self._waiting:
            if not self._send(worker, standing):
                self.later(AGAIN_SECONDS)

    def _greet(self) -> None:
        """Tell those who were not heard yet that this worker is there."""
        strangers = [worker for worker in self._wires.others() if worker not in self._waiting]
        standing = self._standing_written() if strangers else None
        if standing is None:
            return
        data = news.datagram(self._wires.number, standing, news.written(news.Joined()))
        for worker in strangers:
            self._wires.send(worker, data)  # if there is no room, nobody reads it now

    def _standing_written(self) -> msgspec.Raw | None:
        """How this worker stands now; None if that cannot be written."""
        try:
            return news.standing_written(self._standing(), self._wires.most_standing_bytes)
        except OverflowError as error:
            self._wires.errors.add("written", error)
            return None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, math.inf

    def _send(self, worker: int, standing: msgspec.Raw) -> bool:
        waiting = self._waiting[worker]
        while True:
            facts = waiting.take()
            if not self._wires.send(worker, news.datagram(self._wires.number, standing, facts)):
                waiting.put_back(facts)
                return False
            if not waiting:
                return True

    def listen(self) -> None:
        """Take in what has arrived."""
        if heard := self._wires.receive():
            self._hear(heard)
