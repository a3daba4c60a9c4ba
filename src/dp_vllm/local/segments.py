"""Shared memory that engines leave behind in /dev/shm when they are killed: removed, and nothing else ever is.

With `--ipc=host` everybody's segments are there, and those of processes in other containers look as if nobody used
them. So only what our own engines were seen to map is a candidate: name and inode are noted while they run, in a file
of the run's directory, which outlives a killed supervisor. And only names that engines' libraries make, because an
engine also maps what its user put there, a model for instance.
"""

import contextlib
import os
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from dp_vllm import own_files
from dp_vllm.local import pids

SHM: Final = Path("/dev/shm")  # noqa: S108 - where the kernel keeps shared memory

_MADE: Final = re.compile(
    r"psm_[0-9a-f]+"  # Python's SharedMemory: vLLM's message queues between the processes of a replica
    r"|sem\.mp-\w+"  # Python's multiprocessing
    r"|nccl-[\w-]+"  # NCCL, between the GPUs of one machine
    r"|torch_\d+_\w+"  # PyTorch's shared tensors
    r"|vllm_(?:offload|ec)_[\w-]+\.mmap"  # vLLM's caches in main memory
    r"|vllm_dist_\S+-cpushm_\d+"  # vLLM's, between the processes of a replica without GPUs
)
_MAPPED: Final = re.compile(rf"^\S+ \S+ \S+ \S+ (\d+) +{re.escape(str(SHM))}/", re.MULTILINE)
"""A line of /proc/PID/maps. Its inode counts, not its name: who makes a semaphore maps it before it gets its own."""


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One file in /dev/shm; another one may get its name, but not its inode as well."""

    name: str
    inode: int


class Segments:
    """Those of one replica's engine."""

    def __init__(self, record: Path) -> None:
        """`record`: where they are noted."""
        self._record = record
        self._known: set[Segment] = set()
        self._lock = threading.Lock()

    def look(self, guardian: int) -> None:
        """Note what the descendants of this process map now."""
        inodes = {inode for pid in pids.descendants(guardian) for inode in _mapped(pid)}
        seen = {segment for segment in _present() if segment.inode in inodes}
        with self._lock:
            if seen <= self._known:
                return
            self._known |= seen
            with contextlib.suppress(OSError):
                own_files.replace(self._record, msgspec.json.encode(sorted(self._known)))

    def sweep(self) -> None:
        """Remove what is left of them, once the engine and all that came from it are gone."""
        with self._lock:
            sweep([self._record])
            self._known.clear()


def sweep(records: Iterable[Path]) -> None:
    """Remove the segments that are noted in these files and that nobody maps any more, and the files themselves."""
    left = {segment for record in records for segment in _read(record)} & _present()
    if left:
        used = {inode for name in os.listdir("/proc") if name.isdigit() for inode in _mapped(int(name))}
        for segment in left:
            if segment.inode not in used:
                with contextlib.suppress(OSError):
                    (SHM / segment.name).unlink()


def _present() -> set[Segment]:
    """What there is of this user's, and may be an engine's by its name."""
    found = set()
    with contextlib.suppress(OSError), os.scandir(SHM) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if _MADE.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                    found.add(Segment(entry.name, entry.inode()))
    return found


def _mapped(pid: int) -> list[int]:
    """The inodes that a process maps of /dev/shm; none if that cannot be read."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/maps").read_bytes().decode(errors="replace")
        return [int(inode) for inode in _MAPPED.findall(text)]
    return []


def _read(record: Path) -> list[Segment]:
    try:
        return msgspec.json.decode(record.read_bytes(), type=list[Segment])
    except (OSError, msgspec.DecodeError):
        return []
    finally:
        record.unlink(missing_ok=True)
