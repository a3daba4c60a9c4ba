"""Remembers which requests were in flight when engines died, so that one request cannot end replica after replica."""

from collections import OrderedDict
from typing import Final

import xxhash

FORGET_SECONDS: Final = 600.0
MOST: Final = 10_000
"""Bodies that are remembered; the oldest goes first."""


class Deaths:
    """The engine deaths of each request body. A body is known by its hash."""

    def __init__(self) -> None:
        self._bodies: OrderedDict[int, tuple[float, set[str]]] = OrderedDict()

    def record(self, body: bytes, life: str, now: float) -> int:
        """A request with this body was in flight when the engine life `life` ended; how many it has seen end.

        No body is no request of its own, and engines do not die of it: it is not counted.
        """
        if not body:
            return 0
        key = xxhash.xxh3_64_intdigest(body)
        _, lives = self._bodies.pop(key, (now, set()))
        lives.add(life)
        self._bodies[key] = (now, lives)
        while len(self._bodies) > MOST:
            self._bodies.popitem(last=False)
        return len(lives)

    def of(self, body: bytes, now: float) -> int:
        """How many engine deaths a request with this body has been in flight at, lately."""
        if not self._bodies:
            return 0
        self._forget(now)
        entry = self._bodies.get(xxhash.xxh3_64_intdigest(body))
        return len(entry[1]) if entry else 0

    def answered(self, body: bytes) -> None:
        """A request with this body was answered: it is not what the engines died of."""
        if self._bodies:
            self._bodies.pop(xxhash.xxh3_64_intdigest(body), None)

    def _forget(self, now: float) -> None:
        while self._bodies:
            key, (at, _) = next(iter(self._bodies.items()))
            if now - at < FORGET_SECONDS:
                return
            del self._bodies[key]
