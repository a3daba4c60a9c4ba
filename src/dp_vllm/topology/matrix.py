"""The GPUs of one machine and what joins each two of them."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dp_vllm.topology.link import Link


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, and which part of the machine it is next to."""

    index: int
    """Its number with the driver and nvidia-smi: GPUs in the order of their PCI bus ids, from 0."""
    numa: str = ""
    """NUMA nodes next to it, as the driver writes them: `0`, `0-3`, `0,3-9`; empty if that is not known."""
    cpus: str = ""
    """CPUs next to it: `0-31,64-95`; empty if that is not known."""

    def __str__(self) -> str:
        return f"GPU{self.index}"


@dataclass(frozen=True, slots=True)
class Matrix:
    """What joins each two of some GPUs. Rows and columns are in the order of `gpus`."""

    gpus: tuple[Gpu, ...]
    links: tuple[tuple[Link | None, ...], ...]
    """Symmetrical; None on the diagonal and nowhere else."""

    @property
    def indexes(self) -> tuple[int, ...]:
        return tuple(gpu.index for gpu in self.gpus)

    def link(self, one: int, other: int) -> Link:
        """What joins the GPUs at two different places of `gpus`."""
        found = self.links[one][other]
        assert found is not None, "a GPU has no link to itself"
        return found

    def of(self, indexes: Iterable[int]) -> "Matrix":
        """The part of it that these GPUs make up, in this order. Raises KeyError for one that it does not have."""
        places = {gpu.index: place for place, gpu in enumerate(self.gpus)}
        taken = [places[index] for index in indexes]
        return Matrix(
            tuple(self.gpus[place] for place in taken),
            tuple(tuple(self.links[row][column] for column in taken) for row in taken),
        )

    def worst(self, indexes: Sequence[int]) -> Link | None:
        """The slowest link between any two of these GPUs; None for a single one."""
        part = self.of(indexes)
        return min((part.link(*pair) for pair in itertools.combinations(range(len(indexes)), 2)), default=None)

    def sockets(self) -> tuple[str, ...]:
        """For each GPU what it is next to: its NUMA nodes, else its CPUs. The same empty text for all if unknown.

        In a container the CPUs of some GPUs may be hidden; nothing is concluded from what is known of the others.
        """
        for known in ([gpu.numa for gpu in self.gpus], [gpu.cpus for gpu in self.gpus]):
            if all(known):
                return tuple(known)
        return ("",) * len(self.gpus)
