"""What one worker knows of the others: what each has in flight, by its own last word. Pure."""

from collections.abc import Mapping
from typing import Final

from dp_vllm_gateway.member import InFlight
from dp_vllm_gateway.workers.news import Standing

SILENT_SECONDS: Final = 2.0
"""A worker that has not been heard for so long is not believed to have anything in flight: each speaks more often."""

Engine = tuple[str, str]
"""A replica's name and incarnation."""


class Others:
    """Owns what the other workers said."""

    def __init__(self) -> None:
        self._standings: dict[int, Standing] = {}
        self._heard_at: dict[int, float] = {}

    def hear(self, worker: int, standing: Standing, now: float) -> None:
        """A worker has said how it stands. `now` in seconds of a monotonic clock."""
        self._standings[worker] = standing
        self._heard_at[worker] = now

    def died(self, worker: int) -> None:
        """A worker is no more, and so is what it had in flight."""
        self._standings.pop(worker, None)
        self._heard_at.pop(worker, None)

    def standings(self) -> list[Standing]:
        """The last word of each that has not died, however long ago."""
        return list(self._standings.values())

    def alive(self) -> set[int]:
        """Those that have not died."""
        return set(self._standings)

    def is_silent(self, worker: int, now: float) -> bool:
        """Whether it was not heard lately."""
        return self._heard_at.get(worker, -SILENT_SECONDS) + SILENT_SECONDS <= now

    def in_line(self, now: float) -> int:
        """Of how many workers requests wait for a replica with room."""
        heard = (each for worker, each in self._standings.items() if not self.is_silent(worker, now))
        return sum(each.queued > 0 for each in heard)

    def elsewhere(self, now: float) -> Mapping[Engine, InFlight]:
        """What those that speak have in flight, by engine."""
        sums: dict[Engine, InFlight] = {}
        for worker, standing in self._standings.items():
            if self.is_silent(worker, now):
                continue
            for load in standing.loads:
                engine = (load.replica, load.incarnation)
                requests, sequences, tokens = sums.get(engine, (0, 0, 0))
                sums[engine] = InFlight(
                    requests + load.requests, sequences + load.sequences, tokens + load.waiting_tokens
                )
        return sums
