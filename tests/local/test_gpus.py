"""Which GPUs there are and who gets which."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dp_vllm.engine.command import SIM, Engine, Sizes
from dp_vllm.errors import DpVllmError
from dp_vllm.local import division, gpus
from dp_vllm.local.gpus import Share, Visible
from dp_vllm.topology.link import Kind, Link
from dp_vllm.topology.machine import Machine
from dp_vllm.topology.nvml import Device
from dp_vllm.topology.parse import parse

CPU_VLLM = Engine("vllm 0.32.0+cpu", ("vllm", "serve"), uses_gpus=False)


def device(index: int, *parts: str) -> Device:
    return Device(f"GPU-{index:08x}-0000-4000-8000-000000000000", bool(parts), parts)


DGX1 = Machine(
    tuple(map(device, range(8))),
    matrix=parse((Path(__file__).parents[1] / "topology" / "matrices" / "v100x8_dgx1.txt").read_text()).matrix,
)
"""Of its eight GPUs 0 and 3, 1 and 2, 4 and 7, 5 and 6 are joined best."""
DIVIDED = Machine((device(0), device(1, "MIG-a", "MIG-b")), unjoined="they are divided")
ABSENT = Machine(problem="there is no driver", unjoined="there is no driver")
SICK = replace(DGX1, matrix=None, unjoined="GPU is lost")


def uuid(index: int) -> str:
    return device(index).uuid


def seen(found: Machine, variable: str | None, device_ids: Sequence[str] = (), **environ: str) -> Visible:
    named = {} if variable is None else {"CUDA_VISIBLE_DEVICES": variable}
    return gpus.visible_on(found, device_ids, environ | named)


def refused(found: Machine, variable: str | None, device_ids: Sequence[str] = ()) -> str:
    with pytest.raises(DpVllmError) as error:
        seen(found, variable, device_ids)
    return str(error.value)


def visible(engine: Engine, *device_ids: str, **environ: str) -> Visible | None:
    return gpus.visible_to(engine, device_ids, environ)


@pytest.mark.parametrize(
    ("variable", "ids"),
    [
        ("0,1,2,3", ("0", "1", "2", "3")),
        (" 3, 1", ("3", "1")),
        ("GPU-5f0c1a52,GPU-77d1b0c4", ("GPU-5f0c1a52", "GPU-77d1b0c4")),
        ("MIG-5f0c1a52", ("MIG-5f0c1a52",)),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
    ],
)
def test_the_variable_says_which_gpus_there_are(variable: str, ids: tuple[str, ...]) -> None:
    assert gpus.from_variable({"CUDA_VISIBLE_DEVICES": variable}) == Visible(ids, "CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        ("0,0", "CUDA_VISIBLE_DEVICES: 0 is there twice in '0,0'; each GPU can be used once"),
        ("0,-1,1", "CUDA_VISIBLE_DEVICES: '-1' in '0,-1,1' is neither an index nor begins with GPU- or MIG-"),
        ("0,", "CUDA_VISIBLE_DEVICES: '' in '0,' is neither an index nor begins with GPU- or MIG-"),
        ("all", "CUDA_VISIBLE_DEVICES: 'all' in 'all' is neither an index nor begins with GPU- or MIG-"),
    ],
)
def test_a_variable_that_cuda_would_misread_is_refused(variable: str, sentence: str) -> None:
    assert refused(DGX1, variable) == sentence


@pytest.mark.parametrize(
    ("variable", "device_ids", "ids"),
    [
        ({}, ("2", "3"), ("2", "3")),
        ({}, ("GPU-a",), ("GPU-a",)),
        ({"CUDA_VISIBLE_DEVICES": "4,5,6,7"}, ("1", "3"), ("5", "7")),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, ("1",), ("GPU-b",)),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, ("GPU-b",), ("GPU-b",)),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, ("GPU-b",), ("GPU-b",)),
    ],
)
def test_device_ids_choose_among_them(
    variable: dict[str, str], device_ids: Sequence[str], ids: tuple[str, ...]
) -> None:
    assert gpus.chosen(device_ids, gpus.from_variable(variable)) == Visible(ids, "--device-ids")


@pytest.mark.parametrize(
    ("variable", "device_ids", "sentence"),
    [
        ("4,5", ("2",), "--device-ids: there is no GPU 2, counted from 0: CUDA_VISIBLE_DEVICES has 2 (4,5)"),
        ("", ("0",), "--device-ids: there is no GPU 0, counted from 0: CUDA_VISIBLE_DEVICES has 0"),
        ("GPU-a", ("GPU-b",), "--device-ids: GPU-b is not among the visible GPUs: CUDA_VISIBLE_DEVICES has 1 (GPU-a)"),
        ("4,5", ("abc",), "--device-ids: 'abc' is neither an index nor begins with GPU- or MIG-"),
        ("", ("GPU-b",), "--device-ids: GPU-b is not among the visible GPUs: CUDA_VISIBLE_DEVICES has 0"),
    ],
)
def test_device_ids_that_are_not_there_are_refused(variable: str, device_ids: Sequence[str], sentence: str) -> None:
    assert refused(ABSENT, variable, device_ids) == sentence


def test_the_simulated_engine_counts_gpus_only_where_they_are_named() -> None:
    assert visible(SIM) is None
    assert visible(SIM, CUDA_VISIBLE_DEVICES="") is None
    rehearsed = visible(SIM, CUDA_VISIBLE_DEVICES="0,1")
    assert rehearsed is not None and rehearsed.ids == ("0", "1")


def test_a_vllm_for_cpus_has_no_gpus() -> None:
    assert visible(CPU_VLLM, CUDA_VISIBLE_DEVICES="0,1") is None
    with pytest.raises(DpVllmError, match=r"^--device-ids: 0 cannot be used, vllm 0\.32\.0\+cpu runs without GPUs$"):
        visible(CPU_VLLM, "0")


ORDER = Visible(("3", "2", "1", "0", "7"), "CUDA_VISIBLE_DEVICES")


def test_gpus_whose_links_are_not_known_are_divided_in_the_order_in_which_they_are_visible() -> None:
    assert gpus.shares(ORDER, 2, Sizes(tensor=2)) == (Share(("3", "2")), Share(("1", "0")))
    assert gpus.shares(ORDER, 1, Sizes(2, 2)) == (Share(("3", "2", "1", "0")),)


def test_groups_are_taken_as_they_are_given() -> None:
    assert gpus.shares(ORDER, 2, Sizes(tensor=2), (("7", "0"), ("1", "3"))) == (Share(("7", "0")), Share(("1", "3")))


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ((("0", "1"), ("1", "2")), "--gpu-groups: GPU 1 is named twice, each can be used once"),
        ((("0", "9"),), "--gpu-groups: there is no GPU 9: CUDA_VISIBLE_DEVICES has 3,2,1,0,7"),
        ((("0",), ("1",)), "--gpu-groups: a group has 1 GPU, a replica needs 2"),
        ((("0", "1"),), "--gpu-groups: 1 group for -dp 2; in a shell, put them in quotes: '0,1;2,3'"),
    ],
)
def test_groups_that_cannot_be_are_told(groups: tuple[tuple[str, ...], ...], sentence: str) -> None:
    with pytest.raises(DpVllmError) as error:
        gpus.shares(ORDER, 2, Sizes(tensor=2), groups)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("ids", "copies", "sizes", "sentence"),
    [
        (
            ("0", "1", "2", "3"),
            4,
            Sizes(tensor=2),
            "needs dp*tp*pp = 4*2*1 = 8 GPUs, CUDA_VISIBLE_DEVICES has 4 (0,1,2,3)",
        ),
        ((), 1, Sizes(), "needs dp*tp*pp = 1*1*1 = 1 GPUs, CUDA_VISIBLE_DEVICES has 0"),
        (("5",), 1, Sizes(1, 2, 2), "needs dp*tp*pp*pcp = 1*1*2*2 = 4 GPUs, CUDA_VISIBLE_DEVICES has 1 (5)"),
    ],
)
def test_too_few_gpus_are_told_with_the_arithmetic(
    ids: tuple[str, ...], copies: int, sizes: Sizes, sentence: str
) -> None:
    with pytest.raises(DpVllmError) as error:
        gpus.shares(Visible(ids, "CUDA_VISIBLE_DEVICES"), copies, sizes)

    assert str(error.value) == sentence


def test_too_few_gpus_for_the_simulated_engine_are_told_with_the_way_out() -> None:
    there = visible(SIM, CUDA_VISIBLE_DEVICES="0")
    assert there is not None

    with pytest.raises(DpVllmError, match=r"has 1 \(0\); the simulated engine needs none: unset CUDA_VISIBLE_DEVICES$"):
        gpus.shares(there, 2, Sizes())


def test_without_a_driver_the_gpus_must_be_named() -> None:
    assert refused(ABSENT, None) == (
        "no GPUs were found: there is no driver; say which GPUs to use with CUDA_VISIBLE_DEVICES=0,1,..., "
        "or try --engine sim, which needs none"
    )
    named = seen(ABSENT, "1,0")
    assert (named.ids, named.matrix, named.doubt) == (("1", "0"), None, "there is no driver")


def test_a_machines_gpus_are_all_visible_and_grouped_by_their_links() -> None:
    there = seen(DGX1, None)

    assert there.ids == tuple("01234567") and there.said_by == "this machine"
    assert gpus.shares(there, 2, Sizes(tensor=2)) == (
        Share(("0", "3"), Link(Kind.NV, 2)),
        Share(("1", "2"), Link(Kind.NV, 2)),
    )


@pytest.mark.parametrize(
    ("variable", "shares"),
    [
        ("0,1,2,3", [("0", "3"), ("1", "2")]),
        ("3,2,1,0", [("3", "0"), ("2", "1")]),
        (f"{uuid(5)},{uuid(1).upper()},{uuid(6)[:12]},2", [("5", "6"), ("1", "2")]),
    ],
)
def test_every_way_to_name_gpus_ends_in_indexes(variable: str, shares: list[tuple[str, ...]]) -> None:
    """Some vLLMs end at a UUID: vllm-project/vllm#20939, #51677."""
    there = seen(DGX1, variable)
    assert [share.gpus for share in gpus.shares(there, 2, Sizes(tensor=2))] == shares


def test_groups_may_be_given_by_the_names_that_were_typed() -> None:
    there = seen(DGX1, f"{uuid(5)},1,2,{uuid(6)}")
    assert gpus.shares(there, 2, Sizes(tensor=2), ((uuid(5), "1"), ("2", "6"))) == (
        Share(("5", "1"), Link(Kind.NV, 2)),
        Share(("2", "6"), Link(Kind.NV, 1)),
    )


def test_further_replicas_get_the_best_of_the_gpus_that_are_not_in_use() -> None:
    there = division.without(seen(DGX1, "0,1,2,3,4,5,6"), {"0", "3", "1", "2"})
    assert (there.ids, there.said_by) == (("4", "5", "6"), "CUDA_VISIBLE_DEVICES without those in use")
    assert gpus.shares(there, 1, Sizes(tensor=2)) == (Share(("5", "6"), Link(Kind.NV, 2)),)
    with pytest.raises(DpVllmError, match="= 4 GPUs, CUDA_VISIBLE_DEVICES without those in use has 3"):
        gpus.shares(there, 2, Sizes(tensor=2))


def test_further_replicas_get_groups_that_were_given_and_are_free() -> None:
    groups = [Share(("0", "1")), Share(("2", "3")), Share(("4", "5"))]
    assert division.left_over(groups, {"2", "3"}, 2) == [groups[0], groups[2]]
    with pytest.raises(DpVllmError, match="--gpu-groups: 3 groups were given, of which 2 are free, and 3 more would"):
        division.left_over(groups, {"2", "3"}, 3)


def test_device_ids_are_looked_for_among_the_visible_gpus() -> None:
    assert seen(DGX1, "4,5,6,7", ("1", "2")).ids == ("5", "6")
    assert seen(DGX1, "4,5,6,7", (uuid(6), uuid(5))).ids == ("6", "5")
    assert refused(DGX1, "4,5", (uuid(6),)) == (
        f"--device-ids: {uuid(6)} is not among the visible GPUs: CUDA_VISIBLE_DEVICES has 2 (4,5)"
    )


def test_where_cuda_counts_otherwise_indexes_say_nothing_of_links() -> None:
    counted = seen(DGX1, "0,1,2,3", CUDA_DEVICE_ORDER="FASTEST_FIRST")
    assert counted.ids == ("0", "1", "2", "3") and counted.matrix is None
    assert counted.doubt == "CUDA_DEVICE_ORDER=FASTEST_FIRST counts GPUs in another order than the driver"

    named = seen(DGX1, f"{uuid(0)[:12]},{uuid(3)}", CUDA_DEVICE_ORDER="FASTEST_FIRST")
    assert named.ids == (uuid(0), uuid(3)) and named.matrix is not None


@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        ("0,8", "CUDA_VISIBLE_DEVICES: there is no GPU 8, the driver has 0,1,2,3,4,5,6,7"),
        ("GPU-f,0", "CUDA_VISIBLE_DEVICES: there is no GPU GPU-f, `nvidia-smi -L` lists the UUIDs"),
        ("GPU-0", "CUDA_VISIBLE_DEVICES: GPU-0 is the beginning of several UUIDs, those of GPU 0 and GPU 1"),
        (f"3,{uuid(3)}", f"CUDA_VISIBLE_DEVICES: 3 and {uuid(3)} are the same GPU"),
        ("MIG-a", "CUDA_VISIBLE_DEVICES: there is no MIG device MIG-a, the driver has none"),
    ],
)
def test_gpus_that_are_not_there_are_told(variable: str, sentence: str) -> None:
    assert refused(DGX1, variable) == sentence


@pytest.mark.parametrize(
    ("environ", "ids", "said_by"),
    [
        ({"SLURM_JOB_GPUS": "4,5,6"}, ("4", "5", "6"), "SLURM_JOB_GPUS"),
        ({"SLURM_JOB_GPUS": "4,5,6", "SLURM_STEP_GPUS": "6"}, ("6",), "SLURM_STEP_GPUS"),
        ({"SLURM_JOB_GPUS": "8,9,10,11,12,13,14,15"}, tuple("01234567"), "this machine"),
        ({"SLURM_JOB_GPUS": "a100:2"}, tuple("01234567"), "this machine"),
        ({"SLURM_JOB_GPUS": "4,9"}, tuple("01234567"), "this machine"),
        ({"SLURM_JOB_GPUS": "4,5", "CUDA_VISIBLE_DEVICES": "1"}, ("1",), "CUDA_VISIBLE_DEVICES"),
    ],
    ids=["of the job", "of the step", "all that its cgroup shows", "no indexes", "another node's", "the variable wins"],
)
def test_a_slurm_job_keeps_to_its_gpus(environ: dict[str, str], ids: tuple[str, ...], said_by: str) -> None:
    there = seen(DGX1, None, **environ)
    assert (there.ids, there.said_by) == (ids, said_by)


def test_parts_of_a_divided_gpu_serve_alone() -> None:
    parts = seen(DIVIDED, "MIG-b,MIG-a")
    assert gpus.shares(parts, 2, Sizes()) == (Share(("MIG-b",)), Share(("MIG-a",)))
    assert not parts.doubt

    with pytest.raises(DpVllmError) as error:
        gpus.shares(parts, 1, Sizes(tensor=2))
    assert str(error.value) == (
        "MIG-b is a part of a divided GPU (MIG), and parts cannot work together: a replica on 2 GPUs needs whole ones"
    )


def test_a_divided_gpu_must_be_named_by_its_parts() -> None:
    told = "GPU 1 is divided (MIG), so its parts must be named: set CUDA_VISIBLE_DEVICES=MIG-a,MIG-b"
    assert refused(DIVIDED, None) == refused(DIVIDED, "1,0") == told
    assert seen(DIVIDED, "0").ids == ("0",)
    assert refused(DIVIDED, "MIG-c") == (
        "CUDA_VISIBLE_DEVICES: there is no MIG device MIG-c, the driver has MIG-a, MIG-b"
    )


def test_links_that_the_driver_does_not_tell_leave_index_order_and_a_reason() -> None:
    there = seen(SICK, f"{uuid(1)},0,3,2")

    assert there.doubt == "GPU is lost"
    assert gpus.shares(there, 2, Sizes(tensor=2)) == (Share(("1", "0")), Share(("3", "2")))
