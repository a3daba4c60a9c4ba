"""Holds requests that no engine should have yet, and lets them go in order (`routing.fair`, `routing.held`).

An engine would take them all: its own queue is without end and without fairness, and what waits there can no longer go
before anything, nor to whichever replica is free first.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from dp_vllm import names
from dp_vllm_gateway.config import Limits
from dp_vllm_gateway.member import Member
from dp_vllm_gateway.replies import Refusal, unavailable
from dp_vllm_gateway.routing.choice import Choice
from dp_vllm_gateway.routing.fair import Entry, Line

Called: TypeAlias = "asyncio.Future[Choice[Member]]"
"""Where the one who waits is told where to go."""

Held: TypeAlias = Entry[Called]

TOO_MANY: Final = "queue_full"
TOO_LONG: Final = "queue_timeout"


def priority_of(value: bytes | None) -> int | None:
    """What a client's header says; None if it says nothing. Raises Refusal if that is no priority."""
    if value is None:
        return None
    try:
        return int(value)
    except ValueError:
        message = f"{names.PRIORITY_HEADER}: {value.decode('latin-1')!r} is not a whole number; lower goes first"
        raise Refusal(400, message) from None


class Queue:
    """Owns the requests that wait, by model where several are served."""

    def __init__(
        self,
        limits: Limits,
        *,
        to_go: Callable[[Line[Called]], Sequence[tuple[Held, Choice[Member]]]],
        next_room_at: Callable[[], float | None],
        retry_after_seconds: Callable[[int], int],
    ) -> None:
        """`to_go` says who of a line may go now, and where to; it raises Refusal if nobody of them ever will.

        `next_room_at` says when there will be room of which nobody will tell, in the event loop's time.
        """
        self._most = limits.max_queued_requests
        self._seconds = limits.queue_seconds
        self._to_go = to_go
        self._next_room_at = next_room_at
        self._retry_after_seconds = retry_after_seconds
        """When it is worth coming again, by the prompt tokens that wait here."""
        self._lines: dict[str | None, Line[Called]] = {}
        self._waiting: Counter[str | None] = Counter()
        """Requests in each line, those too that were called."""
        self._called = 0
        """Requests that may go and have not gone yet: until then nobody knows what room there is."""
        self._timer: asyncio.TimerHandle | None = None
        self.requests = 0
        self.tokens = 0
        """Of their prompts."""

    def holds(self, model: str | None) -> bool:
        """Whether requests for this model wait; then a new one does not overtake them."""
        return self._waiting[model] > 0

    async def wait(
        self, model: str | None, entry: Held, *, anyway: Callable[[], Choice[Member] | None]
    ) -> Choice[Member]:
        """Wait for this request's turn, and say where it may go.

        If too many wait already, or after `queue_seconds`, it goes `anyway` to a replica that would take it. Raises
        Refusal (429) if there is none.
        """
        if self.requests >= self._most:
            message = f"all replicas are busy and {self.requests} requests wait already"
            return anyway() or self._refuse(message, TOO_MANY)
        line = self._lines.setdefault(model, Line())
        line.join(entry)
        self._waiting[model] += 1
        self.requests += 1
        self.tokens += entry.facts.tokens
        try:
            self.room()
            async with asyncio.timeout(self._seconds):
                choice = await self._turn(line, entry)
        except TimeoutError:
            choice = anyway() or self._refuse(f"all replicas were busy for {self._seconds:g} s", TOO_LONG)
        finally:
            line.leave(entry)
            self._waiting[model] -= 1
            self.requests -= 1
            self.tokens -= entry.facts.tokens
        return choice

    async def _turn(self, line: Line[Called], entry: Held) -> Choice[Member]:
        while True:
            try:
                choice = await entry.waiting
            finally:
                if entry.waiting.done() and not entry.waiting.cancelled():
                    self._gone()
            if choice.picked.available:
                return choice
            entry.waiting = asyncio.get_running_loop().create_future()  # its replica has left this moment
            line.join(entry)

    def _gone(self) -> None:
        """One that was called goes, or its client has left."""
        self._called -= 1
        if not self._called:
            asyncio.get_running_loop().call_soon(self.room)  # once its lease has begun

    def _refuse(self, message: str, code: str) -> Choice[Member]:
        seconds = self._retry_after_seconds(self.tokens)
        raise unavailable(429, message, retry_after_seconds=seconds, code=code)

    def stop(self, why: Exception) -> None:
        """Let nobody wait any longer: raise this for each."""
        for line in self._lines.values():
            self._end(line, why)

    def room(self) -> None:
        """There may be room at some replica: call those who may go."""
        if not self.requests or self._called:
            return
        for line in self._lines.values():
            if line:
                self._call(line)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._called and (at := self._next_room_at()) is not None:
            self._timer = asyncio.get_running_loop().call_at(at, self.room)

    def _call(self, line: Line[Called]) -> None:
        try:
            going = self._to_go(line)
        except Refusal as refusal:
            self._end(line, refusal)
            return
        for entry, choice in going:
            if not entry.waiting.done():  # else its client has left this moment
                entry.waiting.set_result(choice)
                line.take(entry)
                self._called += 1

    def _end(self, line: Line[Called], why: Exception) -> None:
        for entry in list(line.in_order()):
            if not entry.waiting.done():
                entry.waiting.set_exception(why)
                self._called += 1
