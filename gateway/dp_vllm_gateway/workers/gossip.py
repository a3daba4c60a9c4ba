"""Carries what workers tell each other, in datagrams on unix sockets. It knows nothing of what they mean.

Facts of one moment go together, and with them how the worker stands. A datagram that has been sent arrives; one for
which there is no room is sent later. One that was not heard, since this worker began or since it died, is told no more
than that this worker is there.
"""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from dp_vllm_gateway.workers import news
from dp_vllm_gateway.workers.news import Fact, News, Standing
from dp_vllm_gateway.workers.place import Place

SPACING_SECONDS: Final = 0.005
"""What is told soon is told no more often than this: a quarter of an engine's step."""

LATER_SECONDS: Final = 0.02
"""Within what time that is told which can wait: an engine's step."""

AGAIN_SECONDS: Final = 0.01
"""When it is tried again to tell a worker that had no room."""

TICK_SECONDS: Final = 0.5
"""How often a worker speaks that has nothing to tell."""

MOST_WAITING: Final = 20_000
"""Facts for one worker that does not take them; the oldest go first."""

_MOST_AT_ONCE: Final = 64
"""Datagrams that are read before others have their turn."""


class Gossip:
    """Owns the sockets of one worker, and what is yet to be told."""

    def __init__(
        self,
        place: Place,
        *,
        standing: Callable[[], Standing],
        hear: Callable[[Sequence[News]], None],
    ) -> None:
        self._place = place
        self._standing = standing
        self._hear = hear
        self._waiting: dict[int, deque[msgspec.Raw]] = {}
        """What each of the others that is there is yet to be told."""
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray(1 << 18)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._spoke_at = 0.0

    async def run(self) -> None:
        """Listen, and speak now and then, until cancelled."""
        self._loop.add_reader(self._place.inbox, self.listen, 1)
        try:
            while True:
                self.speak()
                self._greet()
                await asyncio.sleep(TICK_SECONDS)
        finally:
            self._loop.remove_reader(self._place.inbox)
            self._stop_timer()

    def join(self) -> None:
        """Begin: what was told to a former life is not read, and all that are there are told of this one."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._place.inbox.recv_into(self._buffer)
        self._greet()

    def meet(self, worker: int) -> None:
        """A worker is there: it is told things from now on."""
        self._waiting.setdefault(worker, deque(maxlen=MOST_WAITING))

    def leave(self, worker: int) -> None:
        """A worker is no more."""
        self._waiting.pop(worker, None)

    def tell(self, fact: Fact, *, to: int | None = None) -> None:
        """Tell all the others, or one, when this worker speaks next."""
        written = news.written(fact)
        for worker in self._waiting if to is None else (to,):
            self._waiting[worker].extend(written)

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
        standing = self._standing()
        for worker in self._waiting:
            if not self._send(worker, standing):
                self.later(AGAIN_SECONDS)

    def _greet(self) -> None:
        """Tell those who were not heard yet that this worker is there."""
        data = news.datagram(self._place.number, self._standing(), news.written(news.Joined()))
        for worker, socket in self._place.others.items():
            if worker not in self._waiting:
                with contextlib.suppress(OSError):  # no room: nobody reads it now
                    socket.send(data)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, math.inf

    def _send(self, worker: int, standing: Standing) -> bool:
        waiting = self._waiting[worker]
        while True:
            facts = news.take(waiting)
            try:
                self._place.others[worker].send(news.datagram(self._place.number, standing, facts))
            except OSError:  # no room
                waiting.extendleft(reversed(facts))
                return False
            if not waiting:
                return True

    def listen(self, most: int = _MOST_AT_ONCE) -> None:
        """Take in what has arrived, at most so many datagrams."""
        heard = []
        with contextlib.suppress(BlockingIOError):
            for _ in range(most):
                size = self._place.inbox.recv_into(self._buffer)
                heard.append(news.read(memoryview(self._buffer)[:size]))
        if heard:
            self._hear(heard)
