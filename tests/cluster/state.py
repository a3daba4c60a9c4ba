"""The folder in which a cluster keeps its files: whose it is, and how all that belongs to it is removed.

A lock beside the folder says whether the cluster's process lives; many may hold it together (see `shared`).
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import IO, Final

from . import processes
from .errors import ClusterError
from .machine import remove_cgroups

_MEMORY: Final = Path("/dev/shm")
_MEMORY_BYTES: Final = 8 << 30


def claim(state: Path) -> IO[str]:
    """Make the folder of a new cluster, and take its lock: it is held for as long as this process lives."""
    known = lock_path(state).exists()
    lock = _try_lock(state)
    if lock is None or _is_detached(state):
        raise ClusterError(f"a cluster is up in {state}")
    if known:
        destroy(state)  # its process has ended without `down`
    try:
        state.mkdir(mode=0o700)
    except OSError as error:
        unlock(state, lock)
        raise ClusterError(f"{state}: {error.strerror}") from None
    return lock


def default_state(name: str) -> Path:
    """Where a cluster of this user keeps its files, if nobody says otherwise."""
    return _folder() / f"dp-vllm-cluster-{os.getuid()}-{name}"


@cache
def _folder() -> Path:
    """In memory if there is much of it: disks take a minute to unpack images, and another to remove them."""
    if "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK):
        found = os.statvfs(_MEMORY)
        if found.f_blocks * found.f_frsize >= _MEMORY_BYTES and not found.f_flag & os.ST_NOEXEC:
            return _MEMORY
    return Path(tempfile.gettempdir())


def remove_stale() -> None:
    """Remove clusters of this user whose process has ended without `down`, by SIGKILL for example."""
    everyone = lock_path(default_state("*"))
    for path in everyone.parent.glob(everyone.name):
        state = path.with_suffix("")
        lock = _try_lock(state)
        if lock is None:
            continue
        if _is_detached(state):
            lock.close()
        else:
            destroy(state)
            unlock(state, lock)


def _is_detached(state: Path) -> bool:
    return (state / "detached").exists() and bool(processes.find(state))


def destroy(state: Path) -> None:
    """End all that runs in a cluster, and remove its files."""
    processes.kill(state)  # mounts and links end with the namespaces, those with their processes
    remove_cgroups(cgroup_prefix(state))
    if state.exists() and lock_path(state).exists():  # else it is not a cluster's
        shutil.rmtree(state)


def cgroup_prefix(state: Path) -> str:
    """What the names of a cluster's cgroups begin with."""
    return "dp-vllm-" + hashlib.sha256(bytes(state)).hexdigest()[:8]


def lock_path(state: Path) -> Path:
    """The file that is locked for as long as a cluster has an owner."""
    return state.with_name(f"{state.name}.lock")


def _try_lock(state: Path) -> IO[str] | None:
    """The lock, unless somebody has it."""
    path = lock_path(state)
    while True:
        lock = path.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(lock.fileno()).st_ino:
                return lock
        except BlockingIOError:
            lock.close()
            return None
        except FileNotFoundError:
            pass  # whoever had it has removed it meanwhile, and perhaps another has made it anew
        lock.close()


def unlock(state: Path, lock: IO[str] | None) -> None:
    """Give up the lock, and remove its file."""
    lock_path(state).unlink(missing_ok=True)
    if lock:
        lock.close()
