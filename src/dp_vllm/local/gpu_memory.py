"""Whether the memory of a dead engine's GPUs is back: the driver takes a while, and an engine started earlier fails.

NVML can hang with a sick driver and takes the asking process with it, so a child of ours asks, which may be given up:
`python -m dp_vllm.local.gpu_memory 0 1` prints what it found as JSON. Where it finds nothing, nothing is waited for.
"""

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from dp_vllm.local.redact import Redactor

LOOK_SECONDS: Final = 5.0
"""How long the child may take."""

SHARE: Final = 0.95
"""Of what was free before the first start, this much has to be free again."""

_FIRST_PID_NAMESPACE: Final = 0xEFFFFFFC
"""The inode of the machine's own: PROC_PID_INIT_INO in Linux's include/linux/proc_ns.h."""

_LONGEST: Final = 120
"""Characters of a holder's command that are shown."""

_PROBE: Final = (sys.executable, "-I", "-m", "dp_vllm.local.gpu_memory")


@dataclass(frozen=True, slots=True)
class Memory:
    """Some GPUs at one moment."""

    free: tuple[int, ...] = ()
    """Bytes, for each GPU; empty if the driver does not say."""
    holders: tuple[int, ...] = ()
    """Pids that the driver names. In a container they are those of the host, and mean nothing."""


class GpuMemory:
    """The GPUs of one replica."""

    def __init__(self, gpus: Sequence[str], probe: Sequence[str] = _PROBE, *, sees_machine: bool | None = None) -> None:
        """`sees_machine`: whether pids mean here what they mean to the driver; found out if it is not said."""
        self._sees_machine = _sees_machine() if sees_machine is None else sees_machine
        self._command = [*probe, *gpus]
        self._first: Memory | None = None
        self._last = Memory()

    def look(self) -> None:
        """Ask the driver. Takes up to `LOOK_SECONDS`."""
        self._last = _look(self._command)

    def is_back(self) -> bool:
        """Whether as much is free as at the first call, but for 5 %. Takes up to `LOOK_SECONDS`."""
        self.look()
        if self._first is None:
            self._first = self._last
        if len(self._last.free) != len(self._first.free):
            return True  # the driver does not say any more
        return all(now >= SHARE * then for now, then in zip(self._last.free, self._first.free, strict=True))

    def __str__(self) -> str:
        """What the last call found, for people; empty if the driver does not say."""
        if not self._last.free:
            return ""
        free = ", ".join(f"{free / 2**30:.1f}" for free in self._last.free)
        seen = (pid for pid in self._last.holders if self._sees_machine or _has_gpu_open(pid))
        holders = list(filter(None, map(_named, seen)))
        return f"{free} GiB are free" + (f", held by {', '.join(holders)}" if holders else "")


def _named(pid: int) -> str:
    """Whose process it is and what it does; empty if it cannot be seen."""
    try:
        process = psutil.Process(pid)
        command = shlex.join(Redactor((), {}).words(process.cmdline())) or process.name()
        return f"process {pid} ({process.username()}: {command[:_LONGEST]})"
    except psutil.Error:
        return ""


def _sees_machine() -> bool:
    """Whether no container hides the machine's processes."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino == _FIRST_PID_NAMESPACE
    except OSError:
        return False


def _has_gpu_open(pid: int) -> bool:
    """Whether this is the process that the driver means, and not another one with the same number in a container."""
    with contextlib.suppress(OSError):
        for fd in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(fd.path).startswith("/dev/nvidia"):
                    return True
    return False


def _look(command: Sequence[str]) -> Memory:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    try:
        output, _ = process.communicate(timeout=LOOK_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=0.5)  # a process that hangs in the driver cannot be waited for
        return Memory()
    try:
        return msgspec.json.decode(output, type=Memory)
    except msgspec.DecodeError:
        return Memory()


def _ask(gpus: Sequence[str]) -> Memory:
    import pynvml  # here, so that a broken driver library can only hurt the child

    try:
        pynvml.nvmlInit()
        handles = [_handle(pynvml, gpu) for gpu in gpus]
        free = tuple(int(pynvml.nvmlDeviceGetMemoryInfo(handle).free) for handle in handles)
        holders = {int(each.pid) for handle in handles for each in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    except pynvml.NVMLError:
        return Memory()
    return Memory(free, tuple(sorted(holders)))


def _handle(nvml: Any, gpu: str) -> object:
    return nvml.nvmlDeviceGetHandleByIndex(int(gpu)) if gpu.isdigit() else nvml.nvmlDeviceGetHandleByUUID(gpu)


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(_ask(sys.argv[1:])))
