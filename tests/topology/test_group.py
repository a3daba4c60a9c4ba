"""Which GPUs are taken together: the best ones where all ways can be tried, and never worse ones than index order's."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_vllm.topology.group import EXACT, Group, best, in_order
from dp_vllm.topology.link import Link, link
from dp_vllm.topology.matrix import Gpu, Matrix
from dp_vllm.topology.parse import parse
from dp_vllm.topology.shape import Shape

MATRICES = {file.stem: parse(file.read_text()).matrix for file in (Path(__file__).parent / "matrices").glob("*.txt")}
CODES = ("SYS", "NODE", "PHB", "PIX", "NV1", "NV2")

Stages = tuple[tuple[int, ...], ...]


@st.composite
def matrices(draw: st.DrawFn, least: int, most: int, codes: Sequence[str] = CODES) -> Matrix:
    count = draw(st.integers(least, most))
    pairs = itertools.combinations(range(count), 2)
    drawn = {frozenset(pair): link(draw(st.sampled_from(codes))) for pair in pairs}
    numa = draw(st.lists(st.sampled_from("01"), min_size=count, max_size=count))
    links = tuple(tuple(drawn.get(frozenset((row, column))) for column in range(count)) for row in range(count))
    return Matrix(tuple(Gpu(index, node) for index, node in enumerate(numa)), links)


@st.composite
def shapes(draw: st.DrawFn, count: int) -> Shape:
    width = draw(st.integers(1, min(count, 4)))
    stages = draw(st.integers(1, min(count // width, 3)))
    return Shape(draw(st.integers(1, count // width // stages)), width, stages)


def sets(gpus: frozenset[int], size: int, number: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """All ways to take so many disjoint sets of such a size."""
    if number == 0:
        yield ()
        return
    for first in itertools.combinations(sorted(gpus), size):
        for others in sets(frozenset(gpu for gpu in gpus - set(first) if gpu > first[0]), size, number - 1):
            yield (first, *others)


def ways(matrix: Matrix, shape: Shape) -> Iterator[tuple[Stages, ...]]:
    for copies in sets(frozenset(matrix.indexes), shape.group, shape.copies):
        yield from itertools.product(*(sets(frozenset(copy), shape.width, shape.stages) for copy in copies))


def worth(matrix: Matrix, copies: Sequence[Stages]) -> tuple[object, ...]:
    """How good a way to group is, said as plainly as possible; the greater the better."""
    stages = [stage for copy in copies for stage in copy]
    wholes = [tuple(itertools.chain(*copy)) for copy in copies if len(copy) > 1]

    def pairs(some: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
        return [pair for one in some for pair in itertools.combinations(map(matrix.indexes.index, one), 2)]

    def slowest(some: Sequence[tuple[int, ...]]) -> list[Link]:
        return sorted(min(matrix.link(*pair) for pair in pairs([one])) for one in some if len(one) > 1)

    def weight(some: Sequence[tuple[int, ...]]) -> int:
        return sum(matrix.link(*pair).weight for pair in pairs(some))

    def apart(some: Sequence[tuple[int, ...]]) -> int:
        return sum(matrix.gpus[one].numa != matrix.gpus[other].numa for one, other in pairs(some))

    return slowest(stages), weight(stages), slowest(wholes), weight(wholes), -apart(stages), -apart(wholes)


def stages_of(groups: Sequence[Group]) -> list[Stages]:
    return [group.stages for group in groups]


def gpus_of(groups: Sequence[Group]) -> list[tuple[int, ...]]:
    return [group.gpus for group in groups]


def demand_a_division(matrix: Matrix, shape: Shape, groups: Sequence[Group]) -> None:
    used = [gpu for group in groups for gpu in group.gpus]
    assert len(groups) == shape.copies
    assert len(used) == len(set(used)) and set(used) <= set(matrix.indexes)
    assert {len(group.stages) for group in groups} == {shape.stages}
    assert {len(stage) for group in groups for stage in group.stages} == {shape.width}


@given(st.data())
def test_no_other_way_is_better_on_any_machine(data: st.DataObject) -> None:
    codes = data.draw(st.sampled_from([CODES, CODES[:2], CODES[-2:], CODES[:1]]))
    matrix = data.draw(matrices(1, 8, codes))
    shape = data.draw(shapes(len(matrix.gpus)))

    groups = best(matrix, shape)

    demand_a_division(matrix, shape, groups)
    assert worth(matrix, stages_of(groups)) == max(worth(matrix, way) for way in ways(matrix, shape))


@pytest.mark.parametrize("name", sorted(name for name, matrix in MATRICES.items() if len(matrix.gpus) <= 8))
def test_no_other_way_is_better_on_a_real_machine(name: str) -> None:
    matrix = MATRICES[name]
    count = len(matrix.gpus)
    for width, stages in ((2, 1), (3, 1), (4, 1), (2, 2), (1, 3)):
        if width * stages > count:
            continue
        shape = Shape(count // width // stages, width, stages)
        groups = best(matrix, shape)
        demand_a_division(matrix, shape, groups)
        assert worth(matrix, stages_of(groups)) == max(worth(matrix, way) for way in ways(matrix, shape))


@given(st.data())
def test_index_order_is_kept_where_it_is_as_good(data: st.DataObject) -> None:
    matrix = data.draw(matrices(2, 8, CODES[:2]))
    shape = data.draw(shapes(len(matrix.gpus)))
    order = data.draw(st.permutations(matrix.indexes))
    reordered = matrix.of(order)

    groups, by_index = best(reordered, shape), in_order(reordered, shape)

    assert worth(matrix, stages_of(groups)) >= worth(matrix, stages_of(by_index))
    if worth(matrix, stages_of(groups)) == worth(matrix, stages_of(by_index)) and shape.stages < 3:
        assert groups == by_index


@settings(max_examples=20)
@given(st.data())
def test_many_gpus_are_never_grouped_worse_than_in_index_order(data: st.DataObject) -> None:
    matrix = data.draw(matrices(EXACT + 1, EXACT + 4))
    shape = data.draw(shapes(len(matrix.gpus)))

    groups = best(matrix, shape)

    demand_a_division(matrix, shape, groups)
    assert worth(matrix, stages_of(groups)) >= worth(matrix, stages_of(in_order(matrix, shape)))


def test_many_gpus_with_bridges_in_odd_places_are_paired_by_them() -> None:
    count = 20
    links = [
        [None if a == b else link("NV4" if a + b == count - 1 else "SYS") for b in range(count)] for a in range(count)
    ]
    matrix = Matrix(tuple(map(Gpu, range(count))), tuple(map(tuple, links)))

    assert gpus_of(best(matrix, Shape(10, 2))) == [(gpu, count - 1 - gpu) for gpu in range(10)]


@pytest.mark.parametrize(
    ("name", "free", "shape", "groups"),
    [
        ("v100x8_dgx1", range(8), Shape(4, 2), [(0, 3), (1, 2), (4, 7), (5, 6)]),
        ("v100x8_dgx1", (0, 1, 2, 3, 4, 5), Shape(3, 2), [(0, 4), (1, 5), (2, 3)]),
        ("mixed5_phb_node_sys", range(5), Shape(2, 2), [(1, 2), (3, 4)]),
        ("pcie6_pix_node_sys", range(6), Shape(1, 4), [(0, 1, 2, 3)]),
        ("pcie8_pix_pxb_sys", (0, 2, 3, 4, 5, 7), Shape(2, 2), [(2, 3), (4, 5)]),
        ("rtx4090x8_all_sys", (0, 4, 1, 5), Shape(2, 2), [(0, 1), (4, 5)]),
        ("a5000x8_pxb_pix_uneven", (1, 2, 3, 5, 6, 7), Shape(2, 2), [(2, 3), (6, 7)]),
        ("h100x4_nv6_numa_permuted", (3, 1, 2, 0), Shape(2, 2), [(3, 1), (2, 0)]),
        (
            "v100x16_dgx2_partial",
            range(16),
            Shape(4, 4),
            [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11), (12, 13, 14, 15)],
        ),
    ],
)
def test_groups_of_real_machines(name: str, free: Sequence[int], shape: Shape, groups: list[tuple[int, ...]]) -> None:
    assert gpus_of(best(MATRICES[name].of(free), shape)) == groups


def test_index_order_is_the_best_on_most_machines_with_all_gpus_free() -> None:
    better = {
        name
        for name, matrix in MATRICES.items()
        for width in (2, 4, 8)
        if width <= len(matrix.gpus)
        for shape in [Shape(len(matrix.gpus) // width, width)]
        if best(matrix, shape) != in_order(matrix, shape)
    }
    assert better == {"v100x8_dgx1", "mixed5_phb_node_sys"} and len(MATRICES) == 22


def test_stages_are_on_the_best_links_and_their_neighbours_on_worse_ones() -> None:
    (group,) = best(MATRICES["pcie8_pix_pxb_sys"].of([0, 2, 1, 3]), Shape(1, 2, 2))
    assert group.stages == ((0, 1), (2, 3))
    assert group.gpus == (0, 1, 2, 3)


def test_stages_follow_each_other_over_the_best_links() -> None:
    """Three sockets in a row: what is in the middle must be the middle stage."""
    links = [["X", "SYS", "PHB"], ["SYS", "X", "PHB"], ["PHB", "PHB", "X"]]
    row = Matrix(
        tuple(map(Gpu, range(3))),
        tuple(tuple(None if code == "X" else link(code) for code in codes) for codes in links),
    )

    (group,) = best(row, Shape(1, 1, 3))

    assert group.stages == ((0,), (2,), (1,))
