"""The memory of a dead engine's GPUs: waited for where the driver tells of it, and never for long."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from programs import running

from dp_vllm.local.gpu_memory import GpuMemory

GIB = 2**30


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """What the stand-in for the driver says."""
    return tmp_path / "driver.json"


@pytest.fixture
def memory(driver: Path) -> GpuMemory:
    return gpus(driver)


def gpus(driver: Path, *, sees_machine: bool = False) -> GpuMemory:
    command = [sys.executable, "-c", f"print(open({str(driver)!r}).read())"]
    return GpuMemory(["0", "1"], command, sees_machine=sees_machine)


def say(driver: Path, *free: float, holders: tuple[int, ...] = ()) -> None:
    driver.write_text(json.dumps({"free": [int(each * GIB) for each in free], "holders": holders}))


def test_it_is_back_when_as_much_is_free_as_before_the_first_start(driver: Path, memory: GpuMemory) -> None:
    say(driver, 80, 40)
    assert memory.is_back()
    say(driver, 80, 4)
    assert not memory.is_back()
    assert str(memory) == "80.0, 4.0 GiB are free"
    say(driver, 77, 39)
    assert memory.is_back()


def test_in_a_container_processes_that_cannot_be_the_holders_are_not_named(driver: Path) -> None:
    say(driver, 80, 40, holders=(1, os.getpid(), 99999999))
    memory = gpus(driver)
    memory.is_back()
    assert "process" not in str(memory)


def test_holders_are_named_with_their_user_and_command_but_no_keys(driver: Path) -> None:
    with running(
        [sys.executable, "-c", "import time; time.sleep(600)", "--api-key", "abc", "x" * 500], driver.with_name("log")
    ) as holder:
        say(driver, 80, 4, holders=(holder.pid, 99999999))
        memory = gpus(driver, sees_machine=True)
        memory.is_back()
        named = str(memory)
    begin = f"80.0, 4.0 GiB are free, held by process {holder.pid} ({psutil.Process().username()}: "
    assert named.startswith(begin) and "--api-key '***'" in named
    assert len(named) < len(begin) + 130


def test_nothing_is_waited_for_when_the_driver_does_not_say(driver: Path, memory: GpuMemory) -> None:
    driver.write_text("no driver")
    assert memory.is_back()
    say(driver, 80, 40)
    assert memory.is_back()
    driver.write_text("")
    assert memory.is_back()


def test_the_child_that_asks_the_driver_always_answers() -> None:
    asked = subprocess.run(
        [sys.executable, "-I", "-m", "dp_vllm.local.gpu_memory", "0"], capture_output=True, timeout=20
    )
    assert asked.returncode == 0 and not asked.stderr
    assert set(json.loads(asked.stdout)) == {"free", "holders"}
