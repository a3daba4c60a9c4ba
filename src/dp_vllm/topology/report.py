"""What is found out about a machine and how its GPUs are grouped, for tables, JSON and pictures alike."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dp_vllm.topology.group import Group, best, in_order
from dp_vllm.topology.link import Link
from dp_vllm.topology.matrix import Matrix
from dp_vllm.topology.shape import Shape


@dataclass(frozen=True, slots=True)
class Report:
    """Some GPUs, how they are grouped, and how their order alone would have grouped them."""

    source: str
    """Where the matrix comes from: a file's name, `this machine`."""
    matrix: Matrix
    shape: Shape
    groups: tuple[Group, ...]
    by_index: tuple[Group, ...]
    given: bool = False
    """The groups were not chosen but given."""
    warnings: tuple[str, ...] = ()

    @property
    def left_over(self) -> tuple[int, ...]:
        used = {gpu for group in self.groups for gpu in group.gpus}
        return tuple(index for index in self.matrix.indexes if index not in used)

    @property
    def same(self) -> bool:
        """Whether index order makes the same groups."""
        return {frozenset(map(frozenset, group.stages)) for group in self.groups} == {
            frozenset(map(frozenset, group.stages)) for group in self.by_index
        }

    def worst(self, groups: Iterable[Group]) -> Link | None:
        """The slowest link inside any of these groups; None if each has a single GPU."""
        links = (self.matrix.worst(group.gpus) for group in groups)
        return min((link for link in links if link is not None), default=None)

    def worst_in_stage(self, groups: Iterable[Group]) -> Link | None:
        """The slowest link inside any stage of these groups."""
        links = (self.matrix.worst(stage) for group in groups for stage in group.stages)
        return min((link for link in links if link is not None), default=None)

    def pairs(self, groups: Iterable[Group]) -> frozenset[frozenset[int]]:
        """Each two GPUs that are in one of these groups."""
        return frozenset(frozenset(pair) for group in groups for pair in itertools.combinations(group.gpus, 2))

    def content(self) -> dict[str, Any]:
        """All of it for `--json`."""
        return {
            "groups": [self._group(group) for group in self.groups],
            "worst_link": _name(self.worst(self.groups)),
            "index_order": {
                "groups": [self._group(group) for group in self.by_index],
                "worst_link": _name(self.worst(self.by_index)),
            },
            "left_over": self.left_over,
            "gpus": [{"index": gpu.index, "numa": gpu.numa, "cpus": gpu.cpus} for gpu in self.matrix.gpus],
            "links": [["X" if link is None else str(link) for link in row] for row in self.matrix.links],
            "warnings": self.warnings,
        }

    def _group(self, group: Group) -> dict[str, Any]:
        stages = [{"gpus": stage, "worst_link": _name(self.matrix.worst(stage))} for stage in group.stages]
        return {"gpus": group.gpus, "worst_link": _name(self.matrix.worst(group.gpus))} | (
            {"stages": stages} if len(stages) > 1 else {}
        )


def report(source: str, matrix: Matrix, shape: Shape, warnings: tuple[str, ...] = ()) -> Report:
    """The best groups of these GPUs, of which there must be enough."""
    return Report(source, matrix, shape, best(matrix, shape), in_order(matrix, shape), warnings=warnings)


def report_given(source: str, matrix: Matrix, shape: Shape, order: Iterable[int], warnings: tuple[str, ...]) -> Report:
    """The groups that these GPUs make in this order."""
    groups = in_order(matrix.of(order), shape)
    return Report(source, matrix, shape, groups, in_order(matrix, shape), given=True, warnings=warnings)


def _name(link: Link | None) -> str | None:
    return None if link is None else str(link)
