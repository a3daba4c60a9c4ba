"""Reads what engines say while they start, and what they said before they died; not more than is shown to somebody."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dp_vllm import names
from dp_vllm.kubernetes_api import ApiError, Unreachable
from dp_vllm_operator.cluster import Cluster
from dp_vllm_operator.replica import Replica

EVERY_SECONDS: Final = 15.0
"""Between two reads of one replica's log while it starts."""

PROGRESS_LINES: Final = 50
LAST_LINES: Final = 200

Lines = Sequence[str]


@dataclass(frozen=True, slots=True)
class _Read:
    restarts: int
    at: float
    lines: Lines


class Logs:
    """Owns what was read of each of one model's pods, so that nothing is read twice."""

    def __init__(self, cluster: Cluster, namespace: str, turn: asyncio.Semaphore, clock: Callable[[], float]) -> None:
        """`turn` limits how many logs are read at once, over all models."""
        self._cluster = cluster
        self._namespace = namespace
        self._turn = turn
        self._clock = clock
        self._starting: dict[str, _Read] = {}
        self._ended: dict[str, _Read] = {}

    async def starting(self, replicas: Iterable[Replica]) -> dict[str, Lines]:
        """The newest lines of those replicas that run and are not Ready, by name."""
        running = [replica for replica in replicas if replica.lives and not replica.ready and _runs(replica)]
        now = self._clock()
        old = [replica for replica in running if self._is_old(replica, now)]
        read = dict(zip((r.uid for r in old), await self._read(old, PROGRESS_LINES, previous=False), strict=True))
        self._starting = {
            replica.uid: _Read(_restarts(replica), now, read[replica.uid])
            if replica.uid in read
            else self._starting[replica.uid]
            for replica in running
        }
        return {replica.name: self._starting[replica.uid].lines for replica in running}

    async def ended(self, replicas: Iterable[Replica]) -> dict[str, Lines]:
        """The last lines of the engine before, of those replicas whose engine was restarted, by name."""
        restarted = [replica for replica in replicas if replica.lives and _restarts(replica)]
        new = [replica for replica in restarted if self._ended.get(replica.uid, _NOTHING).restarts < _restarts(replica)]
        read = dict(zip((r.uid for r in new), await self._read(new, LAST_LINES, previous=True), strict=True))
        self._ended = {
            replica.uid: _Read(_restarts(replica), self._clock(), read[replica.uid])
            if replica.uid in read
            else self._ended[replica.uid]
            for replica in restarted
        }
        return {replica.name: self._ended[replica.uid].lines for replica in restarted}

    def _is_old(self, replica: Replica, now: float) -> bool:
        read = self._starting.get(replica.uid)
        return read is None or read.restarts != _restarts(replica) or now - read.at >= EVERY_SECONDS

    async def _read(self, replicas: Sequence[Replica], lines: int, *, previous: bool) -> list[Lines]:
        async def read(replica: Replica) -> Lines:
            async with self._turn:
                try:
                    return await self._cluster.log(self._namespace, replica.name, lines=lines, previous=previous)
                except (ApiError, Unreachable):  # the node is away: there is nothing to show, and no harm in it
                    return ()

        return await asyncio.gather(*map(read, replicas))


_NOTHING: Final = _Read(0, 0.0, ())


def _engine(replica: Replica) -> dict[str, object]:
    statuses = replica.body.get("status", {}).get("containerStatuses", ())
    return next((status for status in statuses if status["name"] == names.ENGINE_CONTAINER), {})


def _restarts(replica: Replica) -> int:
    return int(str(_engine(replica).get("restartCount", 0)))


def _runs(replica: Replica) -> bool:
    state = _engine(replica).get("state")
    return isinstance(state, dict) and "running" in state
