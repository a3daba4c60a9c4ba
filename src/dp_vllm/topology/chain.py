"""In which order the stages of a pipeline follow each other."""

import itertools
from collections.abc import Sequence
from typing import Final

from dp_vllm.topology.cost import Costs

_TRIED: Final = 7
"""Of so many stages every order is tried; of more none: pipelines of that length lie on more than one machine."""


def chained(costs: Costs, stages: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """The stages in the order whose neighbours have the fastest links; as they are where that is as good."""
    if not 2 < len(stages) <= _TRIED:
        return list(stages)
    numbers = range(len(stages))
    steps = [[costs.copy.between(stages[one], stages[other]) for other in numbers] for one in numbers]
    orders = itertools.permutations(numbers)
    best = min(orders, key=lambda order: sum(steps[one][other] for one, other in itertools.pairwise(order)))
    return [stages[number] for number in best]
