"""What is left of the real engine when a part of it dies or hangs, and what it says then."""

import json
import signal
from pathlib import Path

import msgspec
import programs
import psutil
import pytest
import real_engine
from deployments import serve

from dp_vllm.local import stacks
from dp_vllm.local.segments import SHM, Segment

pytestmark = pytest.mark.vllm

AVX512 = "avx512f" in Path("/proc/cpuinfo").read_text()
"""Without these instructions vLLM's processes on a CPU have no shared memory of vLLM's own, only Python's."""


def test_nothing_is_left_5_seconds_after_the_supervisor_was_killed() -> None:
    with serve(engine="vllm") as served:
        processes = served.descendants()
        assert any("EngineCore" in " ".join(programs.command_line(process)) for process in processes)
        served.program.signal(signal.SIGKILL)
        programs.wait_until(lambda: not any(map(programs.is_alive, processes)), "all are gone", seconds=5)


def test_a_killed_api_server_leaves_no_core_and_no_shared_memory() -> None:
    with serve("-tp", "2", engine="vllm") as served:
        engine = served.engine("0")
        record = Path(engine.cmdline()[-1]).with_name("replica-0.segments.json")
        kinds = {"psm_", "sem.mp-", *(["-cpushm_"] if AVX512 else [])}

        def noted() -> set[str]:
            return {segment.name for segment in msgspec.json.decode(record.read_bytes(), type=list[Segment])}

        programs.wait_until(
            lambda: all(any(kind in name for name in noted()) for kind in kinds), "all of it is noted", seconds=60
        )
        names, processes = noted(), engine.children(recursive=True)
        assert any("EngineCore" in process.name() for process in processes)
        engine.kill()
        programs.wait_until(lambda: not any(map(programs.is_alive, processes)), "all are gone", seconds=10)
        programs.wait_until(lambda: not any((SHM / name).exists() for name in names), "it is removed", seconds=10)
        (folder,) = (served.directory.logs / "crashes").iterdir()
        report = json.loads((folder / "report.json").read_text())
        assert (report["signal"], report["reason"]) == ("SIGKILL", ""), "a healthy engine's log names no cause"


def test_a_frozen_core_still_says_where_it_is(tmp_path: Path) -> None:
    with real_engine.engine(tmp_path, env={"PYTHONFAULTHANDLER": "1"}) as program:
        (core,) = (one for one in psutil.Process(program.pid).children() if "EngineCore" in one.name())
        core.send_signal(signal.SIGSTOP)
        text = stacks.take(program.pid, program.pid, program.log)
        assert program.wait() == -signal.SIGABRT
    of_core = text.partition(f"dp-vllm: process {core.pid} (VLLM::EngineCor")[2].partition("dp-vllm: process")[0]
    assert "vllm/v1/engine/core.py" in of_core
    assert "vllm/entrypoints" in text.rpartition(f"dp-vllm: process {program.pid} ")[2]
