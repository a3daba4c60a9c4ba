"""One command at a time changes a run: two rolling restarts at once would take two replicas down."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from dp_vllm.errors import UserError
from dp_vllm.local import pids
from dp_vllm.local.runs import Found


@contextlib.contextmanager
def held(found: Found) -> Iterator[None]:
    """Hold the run's lock during the block; it is free again when this process ends, however that happens.

    Raises UserError, which names the holder, if another command has it.
    """
    path = found.directory.path / "change.lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise UserError(f"the run {found.name} has just ended") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"the run {found.name} is being changed by {_holder(path)}; let it finish first") from None
        os.ftruncate(fd, 0)
        os.write(fd, str(os.getpid()).encode())
        yield
    finally:
        os.close(fd)


def _holder(path: Path) -> str:
    text = path.read_text()
    return f"process {text} ({pids.command_line(int(text))})" if text.isdigit() else "another command"
