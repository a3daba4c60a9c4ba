"""Which CPUs an engine is kept to."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from dp_vllm.topology.near import listed, near
from dp_vllm.topology.parse import parse

MATRICES = Path(__file__).parent / "matrices"


@pytest.mark.parametrize(
    ("name", "gpus", "allowed", "cpus"),
    [
        ("l40sx4_node_sys", (0, 1), range(384), "0-95,192-287"),
        ("l40sx4_node_sys", (3,), range(384), "96-191,288-383"),
        ("l40sx4_node_sys", (1, 2), range(384), ""),
        ("l40sx4_node_sys", (0, 1), range(50, 120), "50-95"),
        ("l40sx4_node_sys", (0, 1), range(96), ""),
        ("l40sx4_node_sys", (0, 1), range(96, 192), ""),
        ("l40sx4_node_sys", (0, 1), (), ""),
        ("h100x4_nv6_numa_permuted", (2,), range(32), "7,15,23,31"),
        ("h100x4_partial_affinity_slice", (1, 2), range(384), ""),
        ("a100x2_blank_affinity_container", (0, 1), range(64), ""),
    ],
    ids=[
        "one socket",
        "one GPU",
        "two sockets",
        "part of a socket",
        "all there is",
        "none of them",
        "not to be kept",
        "interleaved",
        "hidden",
        "hidden all",
    ],
)
def test_engines_stay_next_to_their_gpus(name: str, gpus: Sequence[int], allowed: Sequence[int], cpus: str) -> None:
    matrix = parse((MATRICES / f"{name}.txt").read_text()).matrix
    assert near(matrix, gpus, frozenset(allowed)) == cpus


def test_numbers_are_listed_as_the_kernel_does() -> None:
    assert listed([]) == "" and listed([7]) == "7" and listed([9, 0, 1, 3, 2, 8]) == "0-3,8-9"
