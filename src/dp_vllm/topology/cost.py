"""What it costs to take GPUs together: one integer, less is better, that adds up over stages and copies.

Leximin over sets of one size is the order of their counts: fewest sets whose slowest link is of the slowest kind, then
fewest of the second slowest kind. So each count gets bits of its own in the integer, the most important one the
highest; one addition adds all, and one comparison compares them in order. From the highest bits down:

- stages by their slowest link, then how far the sum of their links is from the greatest that could be;
- copies by their slowest link, then their sum likewise, where copies have several stages;
- pairs of GPUs of one stage at different sockets, then those of one copy.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dp_vllm.topology.matrix import Matrix
from dp_vllm.topology.shape import Shape

Table = Sequence[Sequence[int]]
"""A number for each two GPUs, by their places in the matrix."""


@dataclass(frozen=True, slots=True)
class Weigher:
    """Weighs sets of GPUs in one respect: as stages, or as whole copies."""

    pairs: Table
    """What each pair costs."""
    ranks: Table
    """How fast each pair's link is, 0 for the slowest kind of the matrix."""
    slowest: Sequence[int]
    """What a set costs whose slowest link has this rank."""

    def of(self, places: Sequence[int]) -> int:
        """What the set costs."""
        return self._sum(itertools.combinations(places, 2))

    def between(self, some: Sequence[int], others: Sequence[int]) -> int:
        """What the links from one set to another cost."""
        return self._sum(itertools.product(some, others))

    def sets(self, count: int, size: int) -> dict[int, int]:
        """What each set of `size` out of `count` GPUs costs; a set is a number with a bit for each place."""
        best = len(self.slowest) - 1
        return dict(self._grown(0, [], 0, best, range(count), size))

    def _sum(self, pairs: Iterator[tuple[int, int]]) -> int:
        cost, rank = 0, len(self.slowest)
        for one, other in pairs:
            cost += self.pairs[one][other]
            rank = min(rank, self.ranks[one][other])
        return cost + self.slowest[rank] if rank < len(self.slowest) else cost

    def _grown(
        self, mask: int, places: list[int], cost: int, rank: int, further: range, size: int
    ) -> Iterator[tuple[int, int]]:
        """All sets that are these places and some of the further ones."""
        if len(places) == size:
            yield mask, cost + (self.slowest[rank] if size > 1 else 0)
            return
        for place in range(further.start, further.stop - (size - len(places)) + 1):
            more, low = cost, rank
            pairs, ranks = self.pairs[place], self.ranks[place]
            for other in places:
                more += pairs[other]
                low = min(low, ranks[other])
            yield from self._grown(mask | 1 << place, [*places, place], more, low, range(place + 1, further.stop), size)


class Costs:
    """What it costs to divide the GPUs of a matrix."""

    def __init__(self, matrix: Matrix, shape: Shape) -> None:
        self._shape = shape
        count = len(matrix.gpus)
        places = range(count)
        kinds = sorted({link for row in matrix.links for link in row if link is not None})
        greatest = max((kind.weight for kind in kinds), default=0)
        sockets = matrix.sockets()
        ranks = [[kinds.index(matrix.link(a, b)) if a != b else 0 for b in places] for a in places]
        missed = [[greatest - matrix.link(a, b).weight if a != b else 0 for b in places] for a in places]
        apart = [[int(sockets[a] != sockets[b]) for b in places] for a in places]

        pair_bits, sum_bits, set_bits = (number.bit_length() for number in (count**2, count**2 * greatest, count))
        copy_apart = 0
        stage_apart = copy_apart + pair_bits
        copy_sum = stage_apart + pair_bits
        copy_slowest = copy_sum + sum_bits
        stage_sum = copy_slowest + set_bits * len(kinds)
        stage_slowest = stage_sum + sum_bits

        def weigher(slowest: int, missing: int, away: int) -> Weigher:
            pairs = [[(missed[a][b] << missing) + (apart[a][b] << away) for b in places] for a in places]
            return Weigher(pairs, ranks, [1 << slowest + set_bits * worse for worse in reversed(range(len(kinds)))])

        self.stage = weigher(stage_slowest, stage_sum, stage_apart)
        """Weighs the GPUs of one stage."""
        self.copy = weigher(copy_slowest, copy_sum, copy_apart)
        """Weighs all GPUs of one copy."""

    @property
    def floor(self) -> int:
        """What it would cost if there were only links of the fastest kind, all at one socket."""
        cost = 0
        if self._shape.width > 1:
            cost += self._shape.copies * self._shape.stages * self.stage.slowest[-1]
        if self._shape.stages > 1:
            cost += self._shape.copies * self.copy.slowest[-1]
        return cost

    def total(self, order: Sequence[int]) -> int:
        """What it costs to divide the GPUs in this order."""
        return sum(map(self.group, self._shape.cut(order)))

    def group(self, stages: Sequence[Sequence[int]]) -> int:
        """What one copy costs that is divided so."""
        cost = sum(map(self.stage.of, stages))
        return cost + self.copy.of(list(itertools.chain(*stages))) if len(stages) > 1 else cost
