"""Says who it is that the NVIDIA driver names as a holder of a GPU's memory, as far as that can be seen from here."""

import contextlib
import os
import shlex
from pathlib import Path
from typing import Final

import psutil

from dp_vllm.local.redact import Redactor

_FIRST_PID_NAMESPACE: Final = 0xEFFFFFFC
"""The inode of the machine's own: PROC_PID_INIT_INO in Linux's include/linux/proc_ns.h."""

_LONGEST: Final = 120
"""Characters of a holder's command that are shown."""


def named(pid: int, *, sees_machine: bool) -> str:
    """Whose process it is and what it does; empty if it cannot be seen.

    In a container the driver's pids are those of the machine: only a process that has a GPU open can be the one.
    """
    if not sees_machine and not _has_gpu_open(pid):
        return ""
    try:
        process = psutil.Process(pid)
        command = shlex.join(Redactor((), {}).words(process.cmdline())) or process.name()
        return f"process {pid} ({process.username()}: {command[:_LONGEST]})"
    except psutil.Error:
        return ""


def sees_machine() -> bool:
    """Whether no container hides the machine's processes."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino == _FIRST_PID_NAMESPACE
    except OSError:
        return False


def _has_gpu_open(pid: int) -> bool:
    with contextlib.suppress(OSError):
        for fd in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(fd.path).startswith("/dev/nvidia"):
                    return True
    return False
