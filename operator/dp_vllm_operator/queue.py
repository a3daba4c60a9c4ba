"""Which models are to be looked at, and when: each key once, by one at a time, and later again after a failure.

Plain asyncio in one event loop, whose clock it uses. It knows nothing of Kubernetes but its errors, and not what is
done for a key.
"""

import asyncio
import contextlib
import heapq
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from typing import Final, NamedTuple

from dp_vllm.kubernetes_api import ApiError, Unreachable

RECONCILE_SECONDS: Final = 60.0
FIRST_RETRY_SECONDS: Final = 1.0
LONGEST_RETRY_SECONDS: Final = 300.0

_log = logging.getLogger(__name__)


class Key(NamedTuple):
    """A DPModel, whether it exists or not."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Turn:
    """One key's turn: what shall happen to the key after it."""

    __slots__ = ("again_seconds", "key")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.again_seconds: float | None = None
        """When to look again though nothing happens."""


class Keys:
    """The one owner of what is to be done. An earlier wish to see a key wins over a later one."""

    def __init__(self, *, rng: random.Random) -> None:
        self._rng = rng
        self._due: dict[Key, float] = {}
        self._working: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._order: list[tuple[float, int, Key]] = []
        """A heap of due times. An entry counts only if `_due` still says the same when it is over."""
        self._tickets = count()
        self._changed = asyncio.Event()

    def add(self, key: Key) -> None:
        """Look at the key now; if it is being worked on, once more after that."""
        self.add_after(key, 0.0)

    def add_after(self, key: Key, seconds: float) -> None:
        """Look at the key after so long, unless it is due earlier."""
        due = _now() + seconds
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        self._queue(key, due)

    @contextlib.asynccontextmanager
    async def next(self) -> AsyncIterator[Turn]:
        """Wait for a key; nobody else gets it until the block ends. An exception in the block is the key's failure."""
        key = await self._get()
        turn = Turn(key)
        try:
            yield turn
        except Exception:
            self._end(key, self._retry_seconds(key))
            raise
        except BaseException:
            self._end(key, 0.0)
            raise
        else:
            self._failures.pop(key, None)
            self._end(key, turn.again_seconds)

    @property
    def depth(self) -> int:
        """How many keys wait for somebody to work on them."""
        now = _now()
        return sum(due <= now for key, due in self._due.items() if key not in self._working)

    def oldest_working(self, now: float) -> float:
        """For how many seconds the slowest of those at work has been working on one key."""
        return max((now - since for since in self._working.values()), default=0.0)

    async def _get(self) -> Key:
        while (key := self._take()) is None:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._order[0][0] if self._order else None):
                    await self._changed.wait()
        return key

    def _take(self) -> Key | None:
        now = _now()
        while self._order and self._order[0][0] <= now:
            due, _, key = heapq.heappop(self._order)
            if self._due.get(key) == due and key not in self._working:
                del self._due[key]
                self._working[key] = now
                return key
        return None

    def _end(self, key: Key, again_seconds: float | None) -> None:
        del self._working[key]
        wished = self._due.get(key)
        if wished is not None:
            self._queue(key, wished)
        if again_seconds is not None:
            self.add_after(key, again_seconds)

    def _queue(self, key: Key, due: float) -> None:
        heapq.heappush(self._order, (due, next(self._tickets), key))
        self._changed.set()

    def _retry_seconds(self, key: Key) -> float:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        longest = min(FIRST_RETRY_SECONDS * 2.0 ** min(failures, 30), LONGEST_RETRY_SECONDS)
        return longest * self._rng.uniform(0.5, 1.0)


Reconcile = Callable[[Key], Awaitable[float | None]]
"""Brings one model nearer to what is wanted; the seconds after which to look again, if nothing happens before."""

Finished = Callable[[bool, float], None]
"""Told of each reconcile: whether it succeeded, and how many seconds it took."""


async def work(
    queue: Keys,
    reconcile: Reconcile,
    *,
    workers: int,
    finished: Finished,
    seconds: float = RECONCILE_SECONDS,
) -> None:
    """Reconcile key after key, so many at a time, until cancelled. A failure is logged, and its key comes again."""
    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(_work(queue, reconcile, finished, seconds))


async def _work(queue: Keys, reconcile: Reconcile, finished: Finished, seconds: float) -> None:
    while True:
        with contextlib.suppress(_Failed):
            async with queue.next() as turn:
                began = _now()
                try:
                    turn.again_seconds = await _limited(reconcile, turn.key, seconds)
                except _Failed:
                    finished(False, _now() - began)
                    raise
                finished(True, _now() - began)


class _Failed(Exception):
    """A reconcile failed, and this was logged."""


async def _limited(reconcile: Reconcile, key: Key, seconds: float) -> float | None:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await reconcile(key)
    except (ApiError, Unreachable) as error:
        _log.warning("%s: %s", key, error)
        raise _Failed from error
    except Exception as error:
        if limit.expired():
            _log.warning("%s: not done after %g s", key, seconds)
        else:
            _log.exception("%s: %s", key, error or type(error).__name__)
        raise _Failed from error


def _now() -> float:
    return asyncio.get_running_loop().time()
