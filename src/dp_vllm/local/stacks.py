"""Asks the Python processes of an engine where they are, and ends them with it.

An engine gets `PYTHONFAULTHANDLER=1` (`arrange`), so each of its processes writes the stacks of all its threads into
the engine's log when it gets SIGABRT, even if it holds the GIL or waits in a library; vLLM itself offers nothing of the
kind. All are stopped first, or the first to end would take the others with it before they were asked.
https://docs.python.org/3/library/faulthandler.html
"""

import contextlib
import os
import re
import resource
import signal
import time
from pathlib import Path
from typing import Final

import psutil

from dp_vllm import own_files
from dp_vllm.local import logs, pids

SECONDS: Final = 3.0
"""How long one process may take to write. One that the kernel holds never does."""

_CAUGHT: Final = re.compile(r"^SigCgt:\s*([0-9a-f]+)$", re.MULTILINE)
"""The signals that a process handles, a bit each, in /proc/PID/status."""


def take(guardian: int, main: int, log: Path) -> str:
    """The stacks of all that came from `guardian`, as they were written into `log`; `main` is asked last.

    Those that wrote are gone afterwards; the others stand still and are to be killed.
    """
    processes = (*(pid for pid in pids.descendants(guardian) if pid != main), main)
    for pid in processes:
        _signal(pid, signal.SIGSTOP)
    begin = logs.size(log)
    for pid in processes:
        if _writes_stacks(pid):
            with contextlib.suppress(OSError):
                logs.append(log, f"dp-vllm: process {pid} ({_name(pid)})")
            _abort(pid)
    with contextlib.suppress(OSError), own_files.opened(log) as file:
        file.seek(begin)
        return file.read().decode(errors="replace")
    return ""


def _writes_stacks(pid: int) -> bool:
    """Whether it catches SIGABRT; any other would end without a word.

    Its environment does not tell: a process that gives itself another name, as vLLM's do, writes the name over it.
    """
    with contextlib.suppress(OSError):
        caught = _CAUGHT.search(Path(f"/proc/{pid}/status").read_text())
        return caught is not None and bool(int(caught[1], 16) >> (signal.SIGABRT - 1) & 1)
    return False


def _abort(pid: int) -> None:
    """Send SIGABRT and wait until it is dead."""
    with contextlib.suppress(OSError, ValueError):
        # Of its gigabytes no core file is to be made; 1 says so also to a program that takes core files over.
        resource.prlimit(pid, resource.RLIMIT_CORE, (1, resource.prlimit(pid, resource.RLIMIT_CORE)[1]))
    _signal(pid, signal.SIGABRT)
    _signal(pid, signal.SIGCONT)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and _lives(pid):
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        return pids.identify(pid).alive
    return False


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def _name(pid: int) -> str:
    """What it calls itself: vLLM gives its processes names like `VLLM::EngineCore`."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).name()
    return "gone"
