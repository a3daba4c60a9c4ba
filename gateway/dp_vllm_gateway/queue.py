"""Holds requests that no engine should have yet, and lets them go in order (`routing.fair`, `routing.held`).

An engine would take them all: its own queue is without end and without fairness, and what waits there can no longer go
before anything, nor to whichever replica is free first.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from dp_vllm import names
from dp_vllm_gateway import bounds
from dp_vllm_gateway.config import Limits
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.lease import Lease
from dp_vllm_gateway.member import Member
from dp_vllm_gateway.replies import Refusal, unavailable
from dp_vllm_gateway.routing.choice import Choice
from dp_vllm_gateway.routing.fair import Entry, KeyCounts, Line


class Turn(NamedTuple):
    """Where a request goes, and its place there, which is its own from when it was called."""

    choice: Choice[Member]
    lease: Lease


Called: TypeAlias = "asyncio.Future[Turn]"
"""Where the one who waits is told."""

Held: TypeAlias = Entry[Called]

LONGEST: Final = 100
"""Characters of a header's value that an error repeats."""

TOO_MANY: Final = "queue_full"
TOO_LONG: Final = "queue_timeout"


def priority_of(value: bytes | None) -> int | None:
    """What a client's header says, clamped; None if it says nothing. Raises Refusal if that is no priority."""
    if value is None:
        return None
    text = value.decode("latin-1")
    priority = bounds.integer_of(text, bounds.MOST_PRIORITY)
    if priority is None:
        message = f"{names.PRIORITY_HEADER}: {text[:LONGEST]!r} is not a whole number; lower goes first"
        raise Refusal(400, message)
    return priority


class Queue:
    """Owns the requests that wait, by model where several are served."""

    def __init__(
        self,
        limits: Limits,
        *,
        to_go: Callable[[Line[Called]], Sequence[tuple[Held, Choice[Member]]]],
        anyway: Callable[[Facts], Choice[Member] | None],
        lease: Callable[[Choice[Member], Facts], Lease],
        next_room_at: Callable[[], float | None],
        retry_after_seconds: Callable[[int], int],
    ) -> None:
        """`to_go` says who of a line may go now, and where to; it raises Refusal if nobody of them ever will.

        `anyway` says to which replica a request may go that should not wait any longer; None: no replica may have more.
        `lease` makes the place there that one who is called has at once, so that nobody else is taken to have it.
        `next_room_at` says when there will be room of which nobody will tell, in the event loop's time.
        """
        self._most = limits.max_queued_requests
        self._seconds = limits.queue_seconds
        self._to_go = to_go
        self._anyway = anyway
        self._lease = lease
        self._next_room_at = next_room_at
        self._retry_after_seconds = retry_after_seconds
        """When it is worth coming again, by the prompt tokens that wait here."""
        self._lines: dict[str | None, Line[Called]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._looks = False
        """A look at who may go is due."""
        self._keys = KeyCounts()
        self.evictions = 0
        """How often a request had to make room for one of a key of which fewer waited."""
        self.requests = 0
        self.tokens = 0
        """Of their prompts."""

    def holds(self, model: str | None) -> bool:
        """Whether requests for this model wait; then a new one does not overtake them."""
        return bool(self._lines.get(model))

    async def wait(self, model: str | None, entry: Held) -> Turn:
        """Wait for this request's turn, and say where it may go.

        After `queue_seconds` it goes to any replica that may have more. Raises Refusal (429) if there is none, and if
        too many wait and this request is not one of those that may (`_overflow`).
        """
        line = self._lines.setdefault(model, Line())
        loop = asyncio.get_running_loop()
        limit = loop.call_later(self._seconds, self._time_is_up, line, entry)
        try:
            while True:
                self._join(line, entry)
                if self.requests > self._most:
                    self._overflow(line, entry)
                turn = await entry.waiting
                if turn.choice.picked.available:
                    return turn
                turn.lease.end()  # its replica has left this moment
                entry.waiting = loop.create_future()
        except TimeoutError:
            choice = self._anyway(entry.facts)
            if choice is None:
                raise self._refusal(f"all replicas were busy for {self._seconds:g} s", TOO_LONG) from None
            return Turn(choice, self._lease(choice, entry.facts))
        except asyncio.CancelledError:
            self._leave(line, entry)
            waiting = entry.waiting
            if waiting.done() and not waiting.cancelled() and not waiting.exception():
                waiting.result().lease.end()
            raise
        finally:
            limit.cancel()

    def _overflow(self, line: Line[Called], new: Held) -> None:
        """One more waits than may. The next one in line goes to any replica that may have more.

        If there is none, the key with the most waiting loses the one whose turn would come last, and if that is the
        key of the `new` one, it is refused.
        """
        first = next(line.in_order())
        choice = self._anyway(first.facts)
        if choice is not None:
            self._go(line, first, choice)
            return
        key = self._keys.crowding(new.key)
        message = f"all replicas are busy and {self._most} requests wait already"
        if key is None:
            self._leave(line, new)
            new.waiting.set_exception(self._refusal(message, TOO_MANY))
            return
        crowded = max(self._lines.values(), key=lambda each: each.waiting_of(key))
        evicted = crowded.last_of(key)
        self._leave(crowded, evicted)
        self.evictions += 1
        if not evicted.waiting.done():
            evicted.waiting.set_exception(self._refusal(f"{message}, most of them of this API key", TOO_MANY))

    def _join(self, line: Line[Called], entry: Held) -> None:
        line.join(entry)
        self._keys.add(entry.key)
        self.requests += 1
        self.tokens += entry.facts.tokens
        self.room()

    def _leave(self, line: Line[Called], entry: Held) -> None:
        if line.leave(entry):
            self._uncount(entry)

    def _uncount(self, entry: Held) -> None:
        self._keys.remove(entry.key)
        self.requests -= 1
        self.tokens -= entry.facts.tokens

    def _time_is_up(self, line: Line[Called], entry: Held) -> None:
        self._leave(line, entry)
        if not entry.waiting.done():
            entry.waiting.set_exception(TimeoutError())

    def _refusal(self, message: str, code: str) -> Refusal:
        seconds = self._retry_after_seconds(self.tokens)
        return unavailable(429, message, retry_after_seconds=seconds, code=code)

    def stop(self, why: Exception) -> None:
        """Let nobody wait any longer: raise this for each."""
        for line in self._lines.values():
            self._end(line, why)

    def room(self) -> None:
        """There may be room at some replica: once the event loop's turn is over, call those who may go."""
        if self.requests and not self._looks:
            self._looks = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._looks = False
        for line in self._lines.values():
            if line:
                self._call(line)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.requests and (at := self._next_room_at()) is not None:
            self._timer = asyncio.get_running_loop().call_at(at, self.room)

    def _call(self, line: Line[Called]) -> None:
        try:
            going = self._to_go(line)
        except Refusal as refusal:
            self._end(line, refusal)
            return
        for entry, choice in going:
            self._go(line, entry, choice)

    def _go(self, line: Line[Called], entry: Held, choice: Choice[Member]) -> None:
        line.take(entry)
        self._uncount(entry)
        if entry.waiting.done():  # its client has left this moment
            return
        lease = self._lease(choice, entry.facts)
        try:
            lease.begin()
        except Exception as error:
            entry.waiting.set_exception(error)  # its own request fails, and nobody else's
            return
        entry.waiting.set_result(Turn(choice, lease))

    def _end(self, line: Line[Called], why: Exception) -> None:
        for entry in list(line.in_order()):
            self._leave(line, entry)
            if not entry.waiting.done():
                entry.waiting.set_exception(why)
