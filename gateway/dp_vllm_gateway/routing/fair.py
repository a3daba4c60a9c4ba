"""Whose request is next when many wait: by priority, then by fair shares of the keys, then by arrival. Pure.

Within a priority: start-time fair queuing (Goyal, Vin, Cheng 1996). A key's requests begin, in virtual time, where its
last one ended, and the one that begins first is next; so keys that wait get the same number of prompt tokens each,
however many requests each of them sends.
"""

import heapq
from typing import Generic, NamedTuple, TypeVar

Waiting = TypeVar("Waiting")


class Place(NamedTuple):
    """A place in the line; the least is next."""

    priority: int
    """Lower goes first, as in vLLM."""
    start: float
    """Virtual time, in tokens."""
    arrival: int


class Line(Generic[Waiting]):
    """Those who wait, in order."""

    def __init__(self) -> None:
        self._heap: list[tuple[Place, Waiting]] = []
        self._virtual = 0.0
        self._ends: dict[str, float] = {}
        """When each key's last request ends, in virtual time."""
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._heap)

    def place(self, priority: int, key: str, tokens: int) -> Place:
        """A new place for a request of so many tokens."""
        start = max(self._virtual, self._ends.get(key, 0.0))
        self._ends[key] = start + max(1, tokens)
        self._arrivals += 1
        return Place(priority, start, self._arrivals)

    def join(self, place: Place, waiting: Waiting) -> None:
        """Wait at a place."""
        heapq.heappush(self._heap, (place, waiting))

    def next(self) -> Waiting | None:
        """Take the one who is next; None if nobody waits."""
        if not self._heap:
            return None
        place, waiting = heapq.heappop(self._heap)
        self._virtual = max(self._virtual, place.start)
        if not self._heap:
            self._ends.clear()  # nobody waited for anybody: all begin anew
        return waiting

    def leave(self, waiting: Waiting) -> None:
        """Stop waiting."""
        self._heap = [entry for entry in self._heap if entry[1] is not waiting]
        heapq.heapify(self._heap)
