"""Whose request is next when many wait: by rank, then by fair shares of the keys, then by priority and due time. Pure.

Within a rank: start-time fair queuing (Goyal, Vin, Cheng 1996). A key's next request begins, in virtual time, where
its last one ended, and the one that begins first is next; so keys that wait get the same number of prompt tokens each,
however many requests each of them sends.

Of one key's requests of a rank the one is next that has the lowest priority, and of those the one that is due first:
that would have been read first, had each had an engine for itself from when it came. So a short prompt goes before a
long one, but only before one that came lately: one that takes ten seconds to read is overtaken for ten seconds and no
longer. It is earliest deadline first (Liu, Layland 1973), where a prompt's deadline is as far off as it is long.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import count
from typing import Final, Generic, TypeVar

import msgspec

from dp_vllm_gateway.facts import Facts

Waiting = TypeVar("Waiting")

MOST_RANK: Final = 100


class Entry(msgspec.Struct, Generic[Waiting], eq=False):
    """One request that waits. No two are equal."""

    facts: Facts
    unread: int
    """Tokens of its prompt that no engine had in its cache when it came."""
    priority: int
    """Orders requests of one key and rank. Lower goes first, as in vLLM."""
    key: str
    due: float
    """When its prompt would have been read if it had not had to wait: a time in seconds."""
    waiting: Waiting
    rank: int = 0
    """Orders requests of all keys. Lower goes first."""
    charge: int = 1
    """Tokens that its key pays."""
    arrival: int = 0


def rank_of(priority: int, *, outranks: bool) -> int:
    """The rank of a request with this priority. Only one that may outrank others goes before them.

    There are few ranks, since each costs time; within one rank a key's requests are in order of priority all the same.
    """
    return min(max(priority, -MOST_RANK if outranks else 0), MOST_RANK)


class Line(Generic[Waiting]):
    """Those who wait, in order."""

    def __init__(self) -> None:
        self._flows: dict[str, dict[int, list[Entry[Waiting]]]] = {}
        """By key and rank, each in order."""
        self._ranks: dict[int, list[tuple[float, int, str]]] = {}
        """By rank the keys in order: when its next request begins, when the first one that waits arrived, the key."""
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
        flows = self._flows.get(entry.key)
        if flows is None:
            flows = self._flows[entry.key] = {}
            self._starts[entry.key] = max(self._virtual, self._starts.get(entry.key, 0.0))
        entries = flows.setdefault(entry.rank, [])
        first = not entries or _order(entry) < _order(entries[0])
        if first and entries:
            self._unplace(entry.key, entry.rank)
        insort(entries, entry, key=_order)
        if first:
            self._place(entry.key, entry.rank)
        self._count += 1
        self.unread += entry.unread
        self.cached += not entry.unread

    def in_order(self) -> Iterator[Entry[Waiting]]:
        """All, the one who is next first. Nobody may join or leave meanwhile."""
        starts: dict[str, float] = {}
        for rank in sorted(self._ranks):
            keys = self._ranks[rank]
            if len(keys) == len(self._ranks) == 1:  # as where there are no keys: nothing is to be merged
                yield from self._flows[keys[0][2]][rank]
                return
            yield from self._in_rank(rank, keys, starts)

    def _in_rank(
        self, rank: int, keys: list[tuple[float, int, str]], starts: dict[str, float]
    ) -> Iterator[Entry[Waiting]]:
        """Those of one rank. `starts` has the keys of which some came before already. Looks at no more than it says."""
        begun: list[tuple[float, int, int, str]] = []
        """A heap of the keys of which some came before: start, arrival and place of the next request, the key."""
        number = 0
        while begun or number < len(keys):
            if number < len(keys) and (not begun or keys[number][:2] < begun[0][:2]):
                start, arrival, key = keys[number]
                number += 1
                place = 0
                if key in starts:
                    heapq.heappush(begun, (starts[key], arrival, 0, key))
                    continue
            else:
                start, _, place, key = heapq.heappop(begun)
            entries = self._flows[key][rank]
            yield entries[place]
            starts[key] = start + entries[place].charge
            if place + 1 < len(entries):
                heapq.heappush(begun, (starts[key], entries[place + 1].arrival, place + 1, key))

    def take(self, entry: Entry[Waiting]) -> None:
        """Its turn has come."""
        start = self._starts[entry.key]
        self._virtual = max(self._virtual, start)
        for rank in self._flows[entry.key]:
            self._unplace(entry.key, rank)
        self._starts[entry.key] = start + entry.charge
        for rank in self._flows[entry.key]:
            self._place(entry.key, rank)
        self.leave(entry)

    def leave(self, entry: Entry[Waiting]) -> bool:
        """Stop waiting; False if it did not wait."""
        flows = self._flows.get(entry.key, {})
        entries = flows.get(entry.rank, [])
        if entry not in entries:
            return False
        first = entries[0] is entry
        if first:
            self._unplace(entry.key, entry.rank)
        entries.remove(entry)
        if not entries:
            del flows[entry.rank]
        elif first:
            self._place(entry.key, entry.rank)
        if not flows:
            del self._flows[entry.key]
        self._count -= 1
        self.unread -= entry.unread
        self.cached -= not entry.unread
        if not self._count:
            self._starts.clear()  # nobody waits for anybody: all begin anew
        return True

    def _place(self, key: str, rank: int) -> None:
        insort(self._ranks.setdefault(rank, []), self._place_of(key, rank))

    def _unplace(self, key: str, rank: int) -> None:
        keys = self._ranks[rank]
        del keys[bisect_left(keys, self._place_of(key, rank))]
        if not keys:
            del self._ranks[rank]

    def _place_of(self, key: str, rank: int) -> tuple[float, int, str]:
        return self._starts[key], self._flows[key][rank][0].arrival, key

    def waiting_of(self, key: str) -> int:
        """How many requests of a key wait."""
        return sum(map(len, self._flows.get(key, {}).values()))

    def last_of(self, key: str) -> Entry[Waiting]:
        """The request of a key that waits whose turn would come last."""
        flows = self._flows[key]
        return flows[max(flows)][-1]


class KeyCounts:
    """How many requests of each key wait, over all lines; each operation takes the same time however many wait."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._keys: dict[int, dict[str, None]] = {}
        """The keys of which so many wait."""
        self._most = 0

    def add(self, key: str) -> None:
        """One more of this key waits."""
        self._move(key, self._counts.get(key, 0), 1)

    def remove(self, key: str) -> None:
        """One fewer of this key waits."""
        self._move(key, self._counts[key], -1)

    def crowding(self, key: str) -> str | None:
        """The key with the most requests, if one of these should make room for one of `key`, which is counted already.

        None if `key` itself has as many as any other.
        """
        return next(iter(self._keys[self._most])) if self._most > self._counts[key] else None

    def _move(self, key: str, old: int, step: int) -> None:
        new = old + step
        if old:
            keys = self._keys[old]
            del keys[key]
            if not keys:
                del self._keys[old]
        if new:
            self._counts[key] = new
            self._keys.setdefault(new, {})[key] = None
        else:
            del self._counts[key]
        if new > self._most or (old == self._most and old not in self._keys):
            self._most = new


def _order(entry: Entry[Waiting]) -> tuple[int, float, int]:
    return entry.priority, entry.due, entry.arrival
