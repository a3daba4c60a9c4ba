"""How many copies of a model there are, and how each is spread over GPUs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """So many copies, each of so many pipeline stages, each of so many GPUs."""

    copies: int
    width: int = 1
    """GPUs that work on one layer together."""
    stages: int = 1

    @property
    def group(self) -> int:
        """GPUs of one copy."""
        return self.stages * self.width

    @property
    def gpus(self) -> int:
        """GPUs of all copies."""
        return self.copies * self.group

    def cut(self, order: Sequence[int]) -> list[list[list[int]]]:
        """An order of GPUs as copies of stages of GPUs; what is left over is not in it."""
        stages = [list(order[start : start + self.width]) for start in range(0, self.gpus, self.width)]
        return [stages[start : start + self.stages] for start in range(0, len(stages), self.stages)]


def product(factors: Mapping[str, int]) -> str:
    """How many GPUs that makes, as people write it: `dp*tp*pp = 4*2*1 = 8`."""
    return f"{'*'.join(factors)} = {'*'.join(map(str, factors.values()))} = {math.prod(factors.values())}"
