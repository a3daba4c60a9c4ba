"""The stacks of an engine's processes, also of those that stand still."""

import signal
import sys
from pathlib import Path

import psutil
from programs import running, wait_until

from dp_vllm.local import stacks

ENGINE = """
import os, signal, subprocess, sys, time
def waits_for_its_core():
    child = subprocess.Popen([sys.executable, "-c", CORE])
    child.wait()
CORE = "import time\\ndef core_loop():\\n    print('runs', flush=True)\\n    time.sleep(600)\\ncore_loop()"
waits_for_its_core()
"""


def test_all_of_them_write_where_they_are_and_are_gone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    argv = [sys.executable, "-c", ENGINE]
    with running(argv, log, env={"PYTHONFAULTHANDLER": "1"}) as engine:
        wait_until(lambda: "runs" in engine.output(), "the core runs")
        (core,) = psutil.Process(engine.pid).children()
        core.send_signal(signal.SIGSTOP)
        text = stacks.take(engine.pid, engine.pid, log)
        assert engine.wait() == -signal.SIGABRT
    first, second = text.split("dp-vllm: process ")[1:]
    assert first.startswith(str(core.pid)) and " in core_loop" in first and "waits_for_its_core" not in first
    assert second.startswith(str(engine.pid)) and " in waits_for_its_core" in second


def test_a_program_that_cannot_tell_is_not_asked(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(["sleep", "600"], log, env={"PYTHONFAULTHANDLER": "1"}) as program:
        wait_until(lambda: psutil.Process(program.pid).name() == "sleep", "it runs")
        assert stacks.take(program.pid, program.pid, log) == ""
        assert program.process.poll() is None
