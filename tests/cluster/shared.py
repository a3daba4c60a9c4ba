"""One control plane for several processes: the first that asks for it starts it, the last that is done ends it.

The processes of a parallel test run share one so. Each holds the cluster's lock together with the others; if all are
killed, nobody holds it, and the next cluster that goes up removes what is left.
"""

import fcntl
import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import processes
from .cluster import Cluster
from .state import default_state, lock_path


@contextmanager
def shared_control_plane(folder: Path) -> Iterator[Cluster]:
    """The control plane, without nodes, of all who name the same `folder`."""
    state = default_state(f"shared-{hashlib.sha256(bytes(folder)).hexdigest()[:8]}")
    with (folder / "control-plane.lock").open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        if not (state / "cluster.json").exists():
            _start(state)
        with lock_path(state).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            (state / "detached").unlink(missing_ok=True)  # from now on it is ours who hold its lock
            fcntl.flock(gate, fcntl.LOCK_UN)
            try:
                yield Cluster.at(state)
            finally:
                fcntl.flock(gate, fcntl.LOCK_EX)
                if _is_last(lock.fileno()):
                    Cluster.at(state).down()


def _start(state: Path) -> None:
    """Not as this process' children, since it may end before the others."""
    processes.run([sys.executable, Path(__file__).parent, f"--state={state}", "up"])


def _is_last(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
