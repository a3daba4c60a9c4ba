"""A cheap way to divide many GPUs: two starts, each made better by exchanging two GPUs as long as that helps."""

import itertools
from collections.abc import Sequence

from dp_vllm.topology.cost import Costs
from dp_vllm.topology.shape import Shape


def searched(costs: Costs, shape: Shape, count: int) -> list[int]:
    """An order of the GPUs' places whose division into copies and stages costs little."""
    starts = (list(range(count)), _greedy(costs, shape, count))
    return min((_exchanged(costs, shape, start) for start in starts), key=costs.total)


def _greedy(costs: Costs, shape: Shape, count: int) -> list[int]:
    """Fill one stage after the other: the lowest GPU that is free, then always the one that fits best."""
    free = list(range(count))
    order: list[int] = []
    while len(order) < shape.gpus:
        begun = order[len(order) // shape.group * shape.group :]
        stage = begun[len(begun) // shape.width * shape.width :]
        weigher, beside = (costs.stage, stage) if stage else (costs.copy, begun)
        cost = {place: weigher.between([place], beside) for place in free}
        place = min(free, key=cost.__getitem__)
        free.remove(place)
        order.append(place)
    return order + free


def _exchanged(costs: Costs, shape: Shape, order: Sequence[int]) -> list[int]:
    order = list(order)
    better = True
    while better:
        better = False
        for one, other in itertools.combinations(range(len(order)), 2):
            if one >= shape.gpus or one // shape.width == other // shape.width:
                continue
            before = _cost(costs, shape, order, one, other)
            order[one], order[other] = order[other], order[one]
            if _cost(costs, shape, order, one, other) < before:
                better = True
            else:
                order[one], order[other] = order[other], order[one]
    return order


def _cost(costs: Costs, shape: Shape, order: Sequence[int], *places: int) -> int:
    """What those copies cost that hold these places of the order."""
    touched = {place // shape.group for place in places if place < shape.gpus}
    groups = shape.cut(order)
    return sum(costs.group(groups[number]) for number in touched)
