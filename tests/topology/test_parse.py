"""The text of `nvidia-smi topo -m`, as the driver prints it and as people paste it."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm.topology.link import Kind, Link, link
from dp_vllm.topology.matrix import Matrix
from dp_vllm.topology.parse import Unreadable, parse

MATRICES = sorted((Path(__file__).parent / "matrices").glob("*.txt"))

PAIRS = """
\tGPU0\tGPU1\tGPU2\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID
GPU0\t X \tNV4\tSYS\t0-7\t0\t\tN/A
GPU1\tNV4\t X \tSYS\t0-7\t0\t\tN/A
GPU2\tSYS\tSYS\t X \t8-15\t1\t\tN/A
"""


def matrix(name: str) -> Matrix:
    return parse((Path(__file__).parent / "matrices" / f"{name}.txt").read_text()).matrix


def links(found: Matrix) -> str:
    """The upper half, row by row."""
    return "; ".join(
        " ".join(str(found.link(row, column)) for column in range(row + 1, len(found.gpus)))
        for row in range(len(found.gpus) - 1)
    )


def refused(text: str) -> str:
    with pytest.raises(Unreadable) as error:
        parse(text)
    return str(error.value)


def test_links_are_ordered_by_speed() -> None:
    assert sorted(map(link, ["PIX", "NV12", "SYS", "PHB", "NV2", "NODE", "PXB"])) == [
        *(Link(kind) for kind in (Kind.SYS, Kind.NODE, Kind.PHB, Kind.PXB, Kind.PIX)),
        *(Link(Kind.NV, 2), Link(Kind.NV, 12)),
    ]
    assert link("SOC") == link("SYS")


@pytest.mark.parametrize("code", ["X", "NV", "NV0", "PIXNODE", "OK", "nv2", ""])
def test_what_is_no_link_is_refused(code: str) -> None:
    with pytest.raises(ValueError, match=f"{code!r} is not a link; they are NV1, NV2, ..., PIX, PXB, PHB, NODE, SYS"):
        link(code)


@pytest.mark.parametrize("file", MATRICES, ids=lambda file: file.stem)
def test_every_matrix_is_read_as_it_stands(file: Path) -> None:
    """Against the plain way to read a row, which does for the GPUs' columns of all of them."""
    text = file.read_text()
    rows = [line.split() for line in text.splitlines() if line.startswith("GPU")]

    read = parse(text)

    assert read.matrix.indexes == tuple(range(len(rows)))
    assert not read.doubts
    for row, found in zip(rows, read.matrix.links, strict=True):
        assert [str(one) if one else "X" for one in found] == row[1 : len(rows) + 1]


@pytest.mark.parametrize(
    ("name", "numa", "cpus"),
    [
        ("a100pciex4_nvlink_pairs", ["0", "0", "1", "1"], ["0-51,104-155"] * 2 + ["52-103,156-207"] * 2),
        ("a100x2_blank_affinity_container", ["", ""], ["", ""]),
        ("h100x4_partial_affinity_slice", ["0", "1", "1", "1"], ["44-51,148-155", "", "", ""]),
        ("h100x8_dgx_nv18_glued_cells", ["0"] * 4 + ["1"] * 4, ["0-55,112-167"] * 4 + ["56-111,168-223"] * 4),
        ("h100x4_nv6_numa_permuted", ["3", "1", "7", "5"], ["6,14,22,30", "4,12,20,28", "7,15,23,31", "5,13,21,29"]),
        ("v100x8_dgx1", [""] * 8, ["0-19,40-59"] * 4 + ["20-39,60-79"] * 4),
        ("mixed5_phb_node_sys", ["1", "0", "0", "0", "0"], ["8-15,24-31"] + ["0-7,16-23"] * 4),
    ],
)
def test_affinities_stand_where_their_column_is(name: str, numa: list[str], cpus: list[str]) -> None:
    found = matrix(name)

    assert [gpu.numa for gpu in found.gpus] == numa
    assert [gpu.cpus for gpu in found.gpus] == cpus


def test_one_hidden_affinity_hides_which_gpus_share_a_socket() -> None:
    assert matrix("h100x4_partial_affinity_slice").sockets() == ("0", "1", "1", "1")
    assert matrix("v100x8_dgx1").sockets() == ("0-19,40-59",) * 4 + ("20-39,60-79",) * 4
    assert parse(PAIRS.replace("\t1\t", "\t\t").replace("8-15", "")).matrix.sockets() == ("", "", "")


@pytest.mark.parametrize(
    "text",
    [
        PAIRS.replace("\tGPU0\tGPU1", "\x1b[4m\tGPU0\tGPU1").replace("GPU NUMA ID", "GPU NUMA ID\x1b[0m"),
        PAIRS.replace("\n", "\r\n"),
        PAIRS.expandtabs(),
        PAIRS.replace("\t", " "),
        f"$ nvidia-smi topo -m\nWhy is GPU0 slow?\n{PAIRS}\nLegend:\n\n  X    = Self\n",
        f"{PAIRS}NIC0\tSYS\tSYS\tPIX\t X \n",
        PAIRS + PAIRS.replace("NV4", "PIX"),
        PAIRS.replace("\n", "\n    "),
    ],
    ids=["colours", "windows", "blanks", "one blank", "words around", "network cards", "two machines", "indented"],
)
def test_how_it_was_pasted_does_not_matter(text: str) -> None:
    read = parse(text)

    assert links(read.matrix) == "NV4 SYS; SYS"
    assert [(gpu.numa, gpu.cpus) for gpu in read.matrix.gpus] == [("0", "0-7"), ("0", "0-7"), ("1", "8-15")]
    assert not read.doubts


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\t X \tNV4\tSYS", "\t X \tNV4SYS"),
        ("NV4\t X \tSYS\t", "NV4\t X \tSYSNODEPH"),
        ("GPU0\t X \tNV4\tSYS", "GPU0\t X \tNV\tSYS"),
        ("GPU0\t X \tNV4\tSYS", "GPU0\t X \tPHPIX\tSYS"),
        ("GPU0\t X \tNV4\tSYS\t0-7\t0\t\tN/A", "GPU0\t X "),
        ("GPU0\t X \tNV4\tSYS\t0-7\t0\t\tN/A\n", ""),
    ],
    ids=["glued", "glued and cut before the CPUs", "cut", "cut and glued", "cut line", "no line"],
)
def test_a_damaged_row_is_completed_by_the_others(old: str, new: str) -> None:
    assert old in PAIRS
    assert links(parse(PAIRS.replace(old, new, 1)).matrix) == "NV4 SYS; SYS"


def test_a_cut_network_card_does_not_hide_the_cpus() -> None:
    text = (
        PAIRS.replace("GPU2\t", "GPU2\tNIC0\t", 1)
        .replace("SYS\t0-7", "SYS\tPH0-7")
        .replace("X \t8-15", "X \tPIX\t8-15")
    )

    assert [gpu.cpus for gpu in parse(text).matrix.gpus] == ["0-7", "0-7", "8-15"]


def test_rows_that_contradict_each_other_are_told_and_the_slower_link_counts() -> None:
    read = parse(PAIRS.replace("NV4\t X ", "NV2\t X "))

    assert links(read.matrix) == "NV2 SYS; SYS"
    assert read.doubts == ("GPU0 and GPU1 are joined by NV4 in one row and by NV2 in the other",)


def test_a_part_of_the_gpus_keeps_their_numbers() -> None:
    text = PAIRS.replace("GPU2", "GPU7")

    part = parse(text).matrix.of([7, 0])

    assert part.indexes == (7, 0) and links(part) == "SYS"
    assert part.worst([0, 7]) == link("SYS") and part.worst([7]) is None


@given(st.data())
def test_however_a_text_is_damaged_it_is_read_or_refused(data: st.DataObject) -> None:
    text = PAIRS
    for _ in range(data.draw(st.integers(1, 5))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 9)))
        text = (
            text[:start] + data.draw(st.sampled_from(["", "\t", "\n", "X", "NV2", "GPU1", "N/A", "0-3"])) + text[end:]
        )
    try:
        found = parse(text).matrix
    except Unreadable:
        return
    places = range(len(found.gpus))
    for row, column in itertools.product(places, places):
        assert found.links[row][column] == found.links[column][row]
        assert (found.links[row][column] is None) == (row == column)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "it has no row of a GPU as `nvidia-smi topo -m` prints them, like 'GPU0 X NV12 SYS'"),
        ("GPU0 is slow\n", "it has no row of a GPU as `nvidia-smi topo -m` prints them, like 'GPU0 X NV12 SYS'"),
        ("GPU0\t X \tNV4\n", "no line above 'GPU0\\t X \\tNV4' names the columns GPU0, GPU1, ..."),
        ("\tGPU0\tGPU0\nGPU0\t X \tSYS\n", "its columns name a GPU twice: 'GPU0\\tGPU0'"),
        (
            "\tGPU0\tGPU1\nGPU0\t X \tOK\nGPU1\tOK\t X \n",
            "it does not say what joins GPU0 and GPU1 (it has 'OK' there)",
        ),
        (
            "\tGPU0\tGPU1\tGPU2\nGPU0\t X \tNV1\tNV1\n",
            "it does not say what joins GPU1 and GPU2 (it has no row of GPU1)",
        ),
        ("\tGPU0\tGPU1\nGPU0\t X \nGPU1\t?\t X \n", "it does not say what joins GPU0 and GPU1"),
    ],
)
def test_what_is_wrong_with_a_text_is_told(text: str, sentence: str) -> None:
    assert refused(text) == sentence
