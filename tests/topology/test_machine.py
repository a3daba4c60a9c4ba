"""What is learnt of this machine through the real pynvml, with a stand-in for the driver's library."""

import subprocess
import sys
from pathlib import Path

import pytest
from topology.stand_in_driver import Driver, bus, uuid

from dp_vllm.topology import machine
from dp_vllm.topology.machine import Machine
from dp_vllm.topology.matrix import Matrix
from dp_vllm.topology.nvml import Device
from dp_vllm.topology.parse import parse

MATRICES = Path(__file__).parent / "matrices"
PATIENT_SECONDS = 30.0


def asked(driver: Driver, limit_seconds: float = PATIENT_SECONDS) -> Machine:
    return machine.ask(driver.environ, limit_seconds=limit_seconds)


def links(matrix: Matrix | None) -> list[str]:
    assert matrix is not None
    return [" ".join("X" if link is None else str(link) for link in row) for row in matrix.links]


def two(*further: str) -> list[str]:
    return [f"gpu {uuid(0)} {bus(0)} 1 f", f"gpu {uuid(1)} {bus(1)} 2 f0", "pcie 0 1 50", *further]


@pytest.mark.parametrize("name", ["v100x8_dgx1", "h100x8_sxm_nv18", "mixed5_phb_node_sys", "pcie8_pix_pxb_sys"])
def test_the_driver_is_understood_as_nvidia_smi_understands_it(name: str, driver: Driver) -> None:
    printed = parse((MATRICES / f"{name}.txt").read_text()).matrix
    driver.has(printed)

    found = asked(driver)

    assert links(found.matrix) == links(printed)
    assert [device.uuid for device in found.devices] == list(map(uuid, printed.indexes))
    assert found.problem == found.unjoined == ""


def test_gpus_know_what_they_are_next_to(driver: Driver) -> None:
    driver.says([f"gpu {uuid(0)} {bus(0)} 1 f0f", f"gpu {uuid(1)} {bus(1)} 6 0", "pcie 0 1 40"])

    found = asked(driver).matrix

    assert found is not None
    assert [(gpu.index, gpu.numa, gpu.cpus) for gpu in found.gpus] == [(0, "0", "0-3,8-11"), (1, "1-2", "")]


@pytest.mark.parametrize(
    ("further", "link"),
    [
        ([f"nvlink 0 0 {bus(1)}", f"nvlink 1 0 {bus(0)}", f"nvlink 0 0 {bus(7)}"], "NV1"),
        (["nvlink 0 2 -", "nvlink 0 2 -", "nvlink 1 2 -"], "NV1"),
        (["nvlink 0 255 -", "nvlink 1 2 -"], "NV1"),
        (["nvlink 0 2 -", "nvlink 1 2 -", "fabric 1 3"], "NV1"),
        (["nvlink 0 2 -", "nvlink 1 2 -", "fabric 1 2"], "SYS"),
        ([f"nvlink 0 0 {bus(7)}", f"nvlink 1 0 {bus(7)}"], "SYS"),
        (["nvlink 0 2 -", "nvlink 1 2 -", "fail nvmlDeviceGetNvLinkRemoteDeviceType 3"], "NV1"),
        (["nvlink 0 2 -", "nvlink 1 2 -", "fail nvmlDeviceGetNvLinkState 3"], "SYS"),
    ],
    ids=[
        "a bridge",
        "the fewer links to switches",
        "hidden switches",
        "a fabric",
        "a fabric that is not ready",
        "bridges to a GPU that is not visible",
        "a driver that hides the other end",
        "a driver without NVLinks",
    ],
)
def test_nvlinks_are_counted(further: list[str], link: str, driver: Driver) -> None:
    driver.says(two(*further))
    assert links(asked(driver).matrix) == [f"X {link}", f"{link} X"]


def test_parts_of_a_divided_gpu_are_named(driver: Driver) -> None:
    driver.says(two("mig 1 MIG-a", "mig 1 MIG-b"))
    assert asked(driver).devices == (Device(uuid(0)), Device(uuid(1), divided=True, parts=("MIG-a", "MIG-b")))
    driver.says(two("mig 0 -", "fail nvmlDeviceGetUUID 0"))
    assert asked(driver).devices[0] == Device(uuid(0), divided=True)


def test_one_gpu_needs_no_links(driver: Driver) -> None:
    driver.says([f"gpu {uuid(0)} {bus(0)} 1 f", "hang nvmlDeviceGetTopologyCommonAncestor"])
    found = asked(driver)
    assert found.matrix is not None and found.matrix.indexes == (0,)


def test_no_gpu_is_no_problem_of_the_drivers(driver: Driver) -> None:
    driver.says([])
    assert asked(driver) == Machine(matrix=Matrix((), ()))


def test_a_gpu_that_is_lost_is_told(driver: Driver) -> None:
    driver.says(two("fail nvmlDeviceGetUUID 15"))
    assert asked(driver) == Machine(
        problem="the NVIDIA driver says: GPU is lost", unjoined="the NVIDIA driver says: GPU is lost"
    )


def test_links_that_cannot_be_asked_for_leave_the_gpus(driver: Driver) -> None:
    driver.says(two("fail nvmlDeviceGetTopologyCommonAncestor 15"))
    found = asked(driver)
    assert len(found.devices) == 2 and found.matrix is None
    assert found.unjoined == "the NVIDIA driver says: GPU is lost"


def test_a_driver_that_hangs_at_the_links_leaves_the_gpus(driver: Driver) -> None:
    driver.says(two("hang nvmlDeviceGetTopologyCommonAncestor"))
    found = asked(driver, 4.0)
    assert len(found.devices) == 2 and found.matrix is None
    assert found.unjoined == "the driver did not answer within 4 s (does nvidia-smi hang too?)"


def test_a_driver_that_hangs_at_once_is_given_up(driver: Driver) -> None:
    driver.says(two("hang nvmlInitWithFlags"))
    found = asked(driver, 0.5)
    assert found.devices == () and found.matrix is None
    assert found.problem == found.unjoined == "the driver did not answer within 0.5 s (does nvidia-smi hang too?)"


def test_a_driver_that_crashes_hurts_only_the_child() -> None:
    found = machine.ask({}, [sys.executable, "-I", "-c", "import os; os.abort()"], PATIENT_SECONDS)
    assert found.problem == "asking the driver ended with status -6"


def test_the_child_always_answers() -> None:
    """With whatever this machine has."""
    answer = subprocess.run([sys.executable, "-I", "-m", "dp_vllm.topology.nvml"], capture_output=True, timeout=30)
    assert answer.returncode == 0 and not answer.stderr
    assert b'"devices":' in answer.stdout
