"""Which GPUs are taken together, so that each copy of a model is on GPUs with fast links between them.

A collective operation runs at the speed of its slowest link, so that counts most: of two ways to group, the better one
is that whose slowest link between the GPUs of a tensor-parallel stage is faster, then the one whose second slowest is,
and so on (leximin); then the one with the greater sum of links. Stages of one copy hand each other little, so the links
between them count only after that, in the same way. Last, GPUs at one socket are taken together.

Up to `EXACT` GPUs the best way is found, above it a good one, never worse than the order of the GPUs.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dp_vllm.topology.chain import chained
from dp_vllm.topology.cost import Costs
from dp_vllm.topology.exact import cheapest
from dp_vllm.topology.matrix import Matrix
from dp_vllm.topology.search import searched
from dp_vllm.topology.shape import Shape

EXACT: Final = 16
"""Up to so many GPUs the best grouping is found, in about a second at most."""


@dataclass(frozen=True, slots=True)
class Group:
    """The GPUs of one copy."""

    stages: tuple[tuple[int, ...], ...]
    """GPU indexes, by pipeline stage; neighbours in the pipeline are neighbours here."""

    @property
    def gpus(self) -> tuple[int, ...]:
        """All of them in the order of the engine's ranks."""
        return tuple(itertools.chain(*self.stages))


def best(matrix: Matrix, shape: Shape) -> tuple[Group, ...]:
    """The best groups out of the matrix's GPUs, in its order where that is as good. There must be enough of them."""
    count = len(matrix.gpus)
    order = list(range(shape.gpus))
    copies = shape.cut(order)
    costs = Costs(matrix, shape)
    cost = costs.total(order)
    if cost > costs.floor:
        found = cheapest(costs, shape, count) if count <= EXACT else searched(costs, shape, count)
        if costs.total(found) < cost:
            copies = sorted(sorted(map(sorted, stages)) for stages in shape.cut(found))
    return _groups(matrix, [chained(costs, stages) for stages in copies])


def in_order(matrix: Matrix, shape: Shape) -> tuple[Group, ...]:
    """The groups that the order of the GPUs makes, as everybody does who does not look at links."""
    return _groups(matrix, shape.cut(range(shape.gpus)))


def _groups(matrix: Matrix, copies: Sequence[Sequence[Sequence[int]]]) -> tuple[Group, ...]:
    indexes = matrix.indexes
    return tuple(Group(tuple(tuple(indexes[place] for place in stage) for stage in stages)) for stages in copies)
