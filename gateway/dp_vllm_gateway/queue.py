"""Holds requests while every replica has as much as it may have, and lets them go on in order (`routing.fair`).

An engine would take them all: its own queue is without end and without fairness, and what waits there can no longer go
to whichever replica is free first.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from dp_vllm import names
from dp_vllm_gateway.config import Limits
from dp_vllm_gateway.replies import Refusal, unavailable
from dp_vllm_gateway.routing.fair import Line, Place

_Waiter = asyncio.Future[None]

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

    def __init__(self, limits: Limits, *, retry_after_seconds: Callable[[int], int]) -> None:
        self._most = limits.max_queued_requests
        self._seconds = limits.queue_seconds
        self._retry_after_seconds = retry_after_seconds
        """When it is worth coming again, by the prompt tokens that wait here."""
        self._lines: dict[str | None, Line[_Waiter]] = {}
        self._waiting: Counter[str | None] = Counter()
        """Requests in each line, those too whose turn it is."""
        self.requests = 0
        self.tokens = 0
        """Of their prompts."""

    def holds(self, model: str | None) -> bool:
        """Whether requests for this model wait; then a new one does not overtake them."""
        return self._waiting[model] > 0

    async def wait(
        self, model: str | None, *, priority: int, key: str, tokens: int, try_again: Callable[[], bool]
    ) -> None:
        """Return once `try_again`, called whenever it is this request's turn, has said that there was room.

        Raises Refusal (429) if too many wait already, or after `queue_seconds`.
        """
        if self.requests >= self._most:
            message = f"all replicas are busy and {self.requests} requests wait already"
            raise unavailable(429, message, retry_after_seconds=self._retry_after_seconds(self.tokens), code=TOO_MANY)
        line = self._lines.setdefault(model, Line())
        place = line.place(priority, key, tokens)
        self._waiting[model] += 1
        self.requests += 1
        self.tokens += tokens
        try:
            async with asyncio.timeout(self._seconds):
                while not await self._turn(line, place, try_again):
                    continue
        except TimeoutError:
            message = f"all replicas were busy for {self._seconds:g} s"
            raise unavailable(
                429, message, retry_after_seconds=self._retry_after_seconds(self.tokens), code=TOO_LONG
            ) from None
        finally:
            self._waiting[model] -= 1
            self.requests -= 1
            self.tokens -= tokens

    async def _turn(self, line: Line[_Waiter], place: Place, try_again: Callable[[], bool]) -> bool:
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        line.join(place, waiter)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self._wake(line)  # its turn came as it left: the next one's now
            else:
                line.leave(waiter)
            raise
        found = True
        try:
            found = try_again()
        finally:
            if found:
                self._wake(line)  # there may be more room, or the next one is to hear that there will be none
        return found

    def stop(self, why: Exception) -> None:
        """Let nobody wait any longer: raise this for each."""
        for line in self._lines.values():
            while (waiter := line.next()) is not None:
                if not waiter.done():
                    waiter.set_exception(why)

    def room(self) -> None:
        """There may be room at some replica: whoever is next tries."""
        for line in self._lines.values():
            self._wake(line)

    def _wake(self, line: Line[_Waiter]) -> None:
        while (waiter := line.next()) is not None:
            if not waiter.done():  # else its client has left this moment
                waiter.set_result(None)
                return
