"""Where programs run and what they use: cores, CPU time, memory. Linux only."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Start processes inside the block, and they and all their threads stay on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class CpuTime:
    """CPU time at one moment, in seconds since some beginning."""

    program_seconds: float = 0.0
    core_seconds: float = 0.0
    """Of everything that ran on the program's core, in hundredths of a second."""


class Usage:
    """What a program uses, its child processes included (nginx works in one)."""

    def __init__(self, pid: int, core: int) -> None:
        self._core = core
        program = psutil.Process(pid)
        self._processes = [program, *program.children(recursive=True)]
        self._clocks = [_cpu_clock(process.pid) for process in self._processes]

    def cpu(self) -> CpuTime:
        """User and system time so far, the program's to the nanosecond.

        `/proc/PID/stat` counts hundredths of a second, which is 1 % of what a short round measures.
        """
        core = psutil.cpu_times(percpu=True)[self._core]
        return CpuTime(sum(map(time.clock_gettime, self._clocks)), sum(core) - core.idle - core.iowait)

    def resident_bytes(self) -> int:
        return sum(int(process.memory_info().rss) for process in self._processes)


def _cpu_clock(pid: int) -> int:
    """The kernel's clock of another process's CPU time, as clock_getcpuclockid(3) makes it."""
    by_scheduler = 2
    return (~pid << 3) | by_scheduler
