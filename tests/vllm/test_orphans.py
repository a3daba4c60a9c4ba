"""kill -9 of the supervisor: the real engine's own children, which would keep the GPU's memory, are gone too."""

import signal
from pathlib import Path

import deployments
import programs
import psutil
import pytest

pytestmark = pytest.mark.vllm


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_nothing_is_left_5_seconds_after_the_supervisor_was_killed(tmp_path: Path) -> None:
    with deployments.serve(tmp_path, "vllm") as program:
        processes = psutil.Process(program.pid).children(recursive=True)
        assert any("EngineCore" in " ".join(process.cmdline()) for process in processes)
        program.signal(signal.SIGKILL)
        programs.wait_until(lambda: not any(is_alive(process) for process in processes), "all are gone", seconds=5)
