"""Whose request is next when many wait: by priority, then by fair shares of the keys, then by when it is due. Pure.

Within a priority: start-time fair queuing (Goyal, Vin, Cheng 1996). A key's next request begins, in virtual time, where
its last one ended, and the one that begins first is next; so keys that wait get the same number of prompt tokens each,
however many requests each of them sends.

Of one key's requests the one is next that is due first: that would have been read first, had each had an engine for
itself from when it came. So a short prompt goes before a long one, but only before one that came lately: one
that takes ten seconds to read is overtaken for ten seconds and no longer. It is earliest deadline first (Liu, Layland
1973), where a prompt's deadline is as far off as it is long.
"""

import heapq
from bisect import insort
from collections.abc import Iterator
from itertools import count
from typing import Generic, TypeVar

import msgspec

from dp_vllm_gateway.facts import Facts

Waiting = TypeVar("Waiting")


class Entry(msgspec.Struct, Generic[Waiting], eq=False):
    """One request that waits. No two are equal."""

    facts: Facts
    unread: int
    """Tokens of its prompt that no engine had in its cache when it came."""
    priority: int
    """Lower goes first, as in vLLM."""
    key: str
    due: float
    """When its prompt would have been read if it had not had to wait: a time in seconds."""
    waiting: Waiting
    arrival: int = 0


class Line(Generic[Waiting]):
    """Those who wait, in order."""

    def __init__(self) -> None:
        self._flows: dict[tuple[int, str], list[Entry[Waiting]]] = {}
        self._starts: dict[str, float] = {}
        """When each key's next request begins, in virtual time: in tokens."""
        self._virtual = 0.0
        self._arrivals = count()
        self._count = 0
        self.unread = 0
        """Tokens, of all who wait."""
        self.cached = 0
        """How many wait of whose prompts nothing is to be read."""

    def __len__(self) -> int:
        return self._count

    def join(self, entry: Entry[Waiting]) -> None:
        """Wait."""
        entry.arrival = next(self._arrivals)
        if not any(key == entry.key for _, key in self._flows):
            self._starts[entry.key] = max(self._virtual, self._starts.get(entry.key, 0.0))
        insort(self._flows.setdefault((entry.priority, entry.key), []), entry, key=_order)
        self._count += 1
        self.unread += entry.unread
        self.cached += not entry.unread

    def in_order(self) -> Iterator[Entry[Waiting]]:
        """All, the one who is next first. Nobody may join or leave meanwhile."""
        if len(self._flows) == 1:  # as where there are no keys: nothing is to be merged
            yield from next(iter(self._flows.values()))
            return
        starts = dict(self._starts)
        for priority in sorted({priority for priority, _ in self._flows}):
            flows = [
                (starts[key], entries[0].arrival, 0, key, entries)
                for (lower, key), entries in self._flows.items()
                if lower == priority
            ]
            heapq.heapify(flows)
            while flows:
                _, _, place, key, entries = flows[0]
                yield entries[place]
                starts[key] += _charge(entries[place])
                if place + 1 < len(entries):
                    heapq.heapreplace(flows, (starts[key], entries[place + 1].arrival, place + 1, key, entries))
                else:
                    heapq.heappop(flows)

    def take(self, entry: Entry[Waiting]) -> None:
        """Its turn has come."""
        start = self._starts[entry.key]
        self._virtual = max(self._virtual, start)
        self._starts[entry.key] = start + _charge(entry)
        self.leave(entry)

    def leave(self, entry: Entry[Waiting]) -> bool:
        """Stop waiting; False if it did not wait."""
        flow = (entry.priority, entry.key)
        entries = self._flows.get(flow, [])
        if entry not in entries:
            return False
        entries.remove(entry)
        if not entries:
            del self._flows[flow]
        self._count -= 1
        self.unread -= entry.unread
        self.cached -= not entry.unread
        if not self._count:
            self._starts.clear()  # nobody waits for anybody: all begin anew
        return True


def _order(entry: Entry[Waiting]) -> tuple[float, int]:
    return entry.due, entry.arrival


def _charge(entry: Entry[Waiting]) -> int:
    return max(1, entry.facts.tokens)
