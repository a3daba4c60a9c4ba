"""The cheapest way to divide a few GPUs, by dynamic programming over sets of GPUs.

Costs add up, so of all ways to use up the same set of GPUs only the cheapest has to be kept. The lowest GPU that is
neither used nor left out begins the next group, so no two orders of the same groups are tried (Held and Karp's subset
programming, 1962, for set partitions).
"""

import functools
import itertools
from collections.abc import Mapping

from dp_vllm.topology.cost import Costs
from dp_vllm.topology.shape import Shape


def cheapest(costs: Costs, shape: Shape, count: int) -> list[int]:
    """An order of the GPUs' places whose division into copies and stages costs least. Takes 2^count steps and more."""
    stages = costs.stage.sets(count, shape.width)
    if shape.stages == 1:
        return [place for group in _packed(stages, shape, count) for place in _places(group)]

    @functools.cache
    def divided(mask: int) -> tuple[int, tuple[int, ...]]:
        """The cheapest stages that make up this set."""
        if not mask:
            return 0, ()
        first, *others = _bits(mask)
        options = (first + sum(more) for more in itertools.combinations(others, shape.width - 1))
        found = ((stages[stage] + divided(mask - stage)[0], stage) for stage in options)
        cost, stage = min(found)
        return cost, (stage, *divided(mask - stage)[1])

    copies = {mask: cost + divided(mask)[0] for mask, cost in costs.copy.sets(count, shape.group).items()}
    groups = _packed(copies, shape, count)
    return [place for group in groups for stage in divided(group)[1] for place in _places(stage)]


def _packed(costs: Mapping[int, int], shape: Shape, count: int) -> list[int]:
    """The cheapest disjoint sets, as many as there are copies, the one with the lowest GPU first."""
    spare = count - shape.gpus
    best = {0: (0, 0)}
    """For each set of used GPUs the least cost, and the group that was added last for it."""
    for first in range(count):
        bit = 1 << first
        for used in list(best):
            left_out = first - (used & bit - 1).bit_count()
            if used & bit or left_out > spare or used.bit_count() == shape.gpus:
                continue
            cost_before = best[used][0]
            free = [1 << place for place in range(first + 1, count) if not used >> place & 1]
            for others in itertools.combinations(free, shape.group - 1):
                group = bit + sum(others)
                cost = cost_before + costs[group]
                known = best.get(used | group)
                if known is None or cost < known[0]:
                    best[used | group] = cost, group
    used = min((used for used in best if used.bit_count() == shape.gpus), key=lambda used: best[used][0])
    groups = []
    while used:
        groups.append(best[used][1])
        used -= groups[-1]
    return groups[::-1]


def _bits(mask: int) -> list[int]:
    return [1 << place for place in _places(mask)]


def _places(mask: int) -> list[int]:
    return [place for place in range(mask.bit_length()) if mask >> place & 1]
