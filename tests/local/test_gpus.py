"""Which GPUs there are and who gets which."""

import json
import subprocess
import sys
from collections.abc import Sequence

import pytest

from dp_vllm.engine.command import SIM, Engine, Sizes
from dp_vllm.errors import DpVllmError
from dp_vllm.local import gpus
from dp_vllm.local.gpus import Visible

VLLM = Engine("vllm 0.32.0", ("vllm", "serve"))
CPU_VLLM = Engine("vllm 0.32.0+cpu", ("vllm", "serve"), uses_gpus=False)


def visible(variable: str | None, device_ids: Sequence[str] = (), engine: Engine = VLLM) -> Visible | None:
    return gpus.visible_to(engine, device_ids, {} if variable is None else {"CUDA_VISIBLE_DEVICES": variable})


def refused(variable: str | None, device_ids: Sequence[str] = (), engine: Engine = VLLM) -> str:
    with pytest.raises(DpVllmError) as error:
        visible(variable, device_ids, engine)
    return str(error.value)


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
    assert visible(variable) == Visible(ids, "CUDA_VISIBLE_DEVICES")


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
    assert refused(variable) == sentence


@pytest.mark.parametrize(
    ("variable", "device_ids", "ids"),
    [
        (None, ("2", "3"), ("2", "3")),
        (None, ("GPU-a",), ("GPU-a",)),
        ("4,5,6,7", ("1", "3"), ("5", "7")),
        ("GPU-a,GPU-b", ("1",), ("GPU-b",)),
        ("GPU-a,GPU-b", ("GPU-b",), ("GPU-b",)),
        ("0,1", ("GPU-b",), ("GPU-b",)),
    ],
)
def test_device_ids_choose_among_them(variable: str | None, device_ids: Sequence[str], ids: tuple[str, ...]) -> None:
    assert visible(variable, device_ids) == Visible(ids, "--device-ids")


@pytest.mark.parametrize(
    ("variable", "device_ids", "sentence"),
    [
        ("4,5", ("2",), "--device-ids: there is no GPU 2, counted from 0: CUDA_VISIBLE_DEVICES has 2 (4,5)"),
        ("", ("0",), "--device-ids: there is no GPU 0, counted from 0: CUDA_VISIBLE_DEVICES has 0"),
        ("GPU-a", ("GPU-b",), "--device-ids: GPU-b is not among the visible GPUs: CUDA_VISIBLE_DEVICES has 1 (GPU-a)"),
        ("", ("GPU-b",), "--device-ids: GPU-b is not among the visible GPUs: CUDA_VISIBLE_DEVICES has 0"),
    ],
)
def test_device_ids_that_are_not_there_are_refused(variable: str, device_ids: Sequence[str], sentence: str) -> None:
    assert refused(variable, device_ids) == sentence


def test_the_simulated_engine_counts_gpus_only_where_they_are_named() -> None:
    assert visible(None, engine=SIM) is None
    assert visible("", engine=SIM) is None
    rehearsed = visible("0,1", engine=SIM)
    assert rehearsed is not None and rehearsed.ids == ("0", "1")


def test_a_vllm_for_cpus_has_no_gpus() -> None:
    assert visible("0,1", engine=CPU_VLLM) is None
    assert refused(None, ("0",), CPU_VLLM) == ("--device-ids: 0 cannot be used, vllm 0.32.0+cpu runs without GPUs")


def test_gpus_are_divided_in_the_order_in_which_they_are_visible() -> None:
    four = Visible(("3", "2", "1", "0", "7"), "CUDA_VISIBLE_DEVICES")

    assert gpus.groups(four, 2, Sizes(tensor=2)) == (("3", "2"), ("1", "0"))
    assert gpus.groups(four, 1, Sizes(2, 2)) == (("3", "2", "1", "0"),)


@pytest.mark.parametrize(
    ("variable", "copies", "sizes", "sentence"),
    [
        (
            "0,1,2,3",
            4,
            Sizes(tensor=2),
            "needs dp*tp*pp = 4*2*1 = 8 GPUs, CUDA_VISIBLE_DEVICES has 4 (0,1,2,3)",
        ),
        ("", 1, Sizes(), "needs dp*tp*pp = 1*1*1 = 1 GPUs, CUDA_VISIBLE_DEVICES has 0"),
        ("5", 1, Sizes(1, 2, 2), "needs dp*tp*pp*pcp = 1*1*2*2 = 4 GPUs, CUDA_VISIBLE_DEVICES has 1 (5)"),
    ],
)
def test_too_few_gpus_are_told_with_the_arithmetic(variable: str, copies: int, sizes: Sizes, sentence: str) -> None:
    there = visible(variable)
    assert there is not None

    with pytest.raises(DpVllmError) as error:
        gpus.groups(there, copies, sizes)

    assert str(error.value) == sentence


def test_too_few_gpus_for_the_simulated_engine_are_told_with_the_way_out() -> None:
    there = visible("0", engine=SIM)
    assert there is not None

    with pytest.raises(DpVllmError, match=r"has 1 \(0\); the simulated engine needs none: unset CUDA_VISIBLE_DEVICES$"):
        gpus.groups(there, 2, Sizes())


def child(program: str) -> list[str]:
    return [sys.executable, "-I", "-c", program]


def said_of_machine(program: str, limit_seconds: float = 20) -> str:
    with pytest.raises(DpVllmError) as error:
        gpus.of_machine(child(program), limit_seconds)
    return str(error.value)


def test_the_machine_is_asked_by_a_child() -> None:
    assert gpus.of_machine(child("print('{\"count\": 3}')")) == Visible(("0", "1", "2"), "this machine")


def test_a_driver_that_hangs_is_given_up() -> None:
    told = said_of_machine("import time; time.sleep(60)", 0.05)

    assert told == (
        "the GPU driver did not say within 0.05 s which GPUs there are (does nvidia-smi hang too?); "
        "say which GPUs to use with CUDA_VISIBLE_DEVICES=0,1,..., or try --engine sim, which needs none"
    )


def test_a_driver_that_crashes_hurts_only_the_child() -> None:
    told = said_of_machine("import os; os.abort()")

    assert told.startswith("no GPUs were found: asking the driver ended with status -6; say which GPUs to use with")


def test_what_the_driver_says_is_told() -> None:
    told = said_of_machine("""print('{"problem": "it is broken"}')""")

    assert told.startswith("no GPUs were found: it is broken; say which")


def test_a_divided_gpu_must_be_named() -> None:
    assert said_of_machine("""print('{"count": 2, "divided": [1]}')""").startswith(
        "GPU 1 is divided (MIG), so its parts must be named: set CUDA_VISIBLE_DEVICES=MIG-..."
    )


def test_the_child_always_answers() -> None:
    answer = subprocess.run(
        [sys.executable, "-I", "-m", "dp_vllm.local.gpus"], capture_output=True, timeout=30, check=True
    )

    found = json.loads(answer.stdout)
    assert found["problem"] == "" or found["count"] == 0
