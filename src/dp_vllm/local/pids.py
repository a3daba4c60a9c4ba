"""Tells processes apart, also after a pid was given out again, and ends what is left of a session.

It reads /proc alone and knows nothing of what the processes are for.
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from dp_vllm.local.redact import Redactor


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process for ever: a pid alone is given out again."""

    pid: int
    ticks: int
    """Its start in clock ticks since boot, as in /proc/PID/stat."""

    @property
    def alive(self) -> bool:
        """Whether it runs still; a zombie does not."""
        stat = _stat(self.pid)
        return stat is not None and stat.ticks == self.ticks and not stat.ended


@dataclass(frozen=True, slots=True)
class _Stat:
    ended: bool
    parent: int
    session: int
    ticks: int


def _stat(pid: int) -> _Stat | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    # Where the first thread has ended before the others, the process is shown as a zombie and still has its memory.
    ended = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1
    return _Stat(ended=ended, parent=int(fields[1]), session=int(fields[3]), ticks=int(fields[19]))


def identify(pid: int) -> ProcessId:
    """Raises ProcessLookupError if there is no such process."""
    stat = _stat(pid)
    if stat is None:
        raise ProcessLookupError(pid)
    return ProcessId(pid, stat.ticks)


def command_line(pid: int) -> str:
    """For people: the words of a process's command without secrets; empty where they cannot be read."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
        return " ".join(Redactor((), {}).words(words)).strip()
    return ""


def kill_session(leader: ProcessId, *, seconds: float = 5.0) -> None:
    """Kill all processes of the session that `leader` began, itself included, whether or not it still runs.

    Gives up after `seconds`: a process may hang in the kernel.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end and (left := _session(leader)):
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def descendants(ancestor: int) -> list[int]:
    """All that came from a process and still has it as a parent, a grandparent and so on; parents before children."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := _stat(int(name))):
            children.setdefault(stat.parent, []).append(int(name))
    found = list(children.get(ancestor, []))
    for pid in found:  # grows while it is walked
        found.extend(children.get(pid, []))
    return found


def zombies_of(parent: int) -> set[ProcessId]:
    """The children of `parent` that ended and for which nobody waited yet."""
    stats = ((int(name), _stat(int(name))) for name in os.listdir("/proc") if name.isdigit())
    return {ProcessId(pid, stat.ticks) for pid, stat in stats if stat and stat.ended and stat.parent == parent}


def _session(leader: ProcessId) -> list[int]:
    now = _stat(leader.pid)
    if now is not None and now.ticks != leader.ticks:
        return []  # the kernel gave the number out again, so nobody of that session was left
    stats = ((int(name), _stat(int(name))) for name in os.listdir("/proc") if name.isdigit())
    return [pid for pid, stat in stats if stat is not None and stat.session == leader.pid and not stat.ended]
