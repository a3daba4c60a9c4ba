"""A run over several nodes before they have met, and how many of its replicas each gets. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dp_vllm.errors import UserError
from dp_vllm.local.deployment import Deployment, Listen
from dp_vllm.local.slurm.allocation import Allocation


@dataclass(frozen=True, slots=True)
class Room:
    """What one node has to offer."""

    node: str
    gpus: int | None = None
    """That the run may use; None if its engines use none."""
    fits: int | None = None
    """Replicas that they suffice for; None if there is no limit."""

    def __str__(self) -> str:
        return f"{self.node} for {self.fits} ({self.gpus} GPUs)"


@dataclass(frozen=True, slots=True)
class Spread:
    """What this node is to do, as far as it knows that without the others."""

    job: Allocation
    room: Room
    copies: int
    """Replicas in all."""
    listen: Listen
    logs: Path
    """A directory that all nodes see."""
    seconds: float
    """How long the nodes wait for each other."""
    arranged: Callable[[int, int], Deployment]
    """The deployment here, by the number of its first replica and how many there are."""

    def alike(self) -> Deployment:
        """What this node would do if all were like it."""
        counts = divide(self.copies, [replace(self.room, node=node) for node in self.job.nodes])
        return self.arranged(sum(counts[: self.job.rank]), counts[self.job.rank])


def divide(copies: int, rooms: Sequence[Room]) -> tuple[int, ...]:
    """How many of `copies` each node runs: as even as the GPUs allow, the first nodes have one more.

    Raises UserError with the nodes' names if they do not fit, or if a node would be left without any.
    """
    counts = [0] * len(rooms)
    for _ in range(copies):
        open_places = [place for place, room in enumerate(rooms) if room.fits is None or counts[place] < room.fits]
        if not open_places:
            raise UserError(f"-dp {copies} does not fit into the job: there is room on {', on '.join(map(str, rooms))}")
        counts[min(open_places, key=lambda place: counts[place])] += 1
    idle = [room.node for room, count in zip(rooms, counts, strict=True) if count == 0]
    if idle:
        useful = sum(room.fits for room in rooms if room.fits is not None)
        more = f"-dp {useful} uses all GPUs of the job" if useful > copies else "give each node GPUs"
        raise UserError(f"-dp {copies} leaves {', '.join(idle)} without a replica; {more}, or give srun fewer --nodes")
    return tuple(counts)
