"""Claims a run's directory for one supervisor, and says in it who runs.

It must not know why a process runs or when it is to end.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dp_vllm import own_files
from dp_vllm.errors import UserError
from dp_vllm.local import pids, segments
from dp_vllm.local.pids import ProcessId
from dp_vllm.local.run_directory import RunDirectory

GUARDIAN_SECONDS = 10.0
"""How long the guardians of a killed supervisor may take to end what they guard."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """A program and the guardian that stands before it."""

    guardian: ProcessId
    program: ProcessId


@dataclass(frozen=True, slots=True)
class Record:
    """Who runs: what `run.json` holds."""

    supervisor: ProcessId
    model: str
    url: str
    children: Mapping[str, Guarded]
    """`gateway`, and the replicas by name; only those that run now."""
    logs: str = ""
    """The directory of their logs."""
    cards: tuple[str, ...] = ()
    """The replicas' GPUs as the driver calls them, if it was asked."""


def read(directory: RunDirectory) -> Record | None:
    """The record of a run; None if there is none that can be read."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(directory.run.read_bytes(), type=Record)
    return None


def write(directory: RunDirectory, record: Record) -> None:
    """Replace the record at once."""
    own_files.replace(directory.run, msgspec.json.format(msgspec.json.encode(record)) + b"\n")


@contextlib.contextmanager
def claimed(
    directory: RunDirectory, files: Mapping[Path, str], *, guardian_seconds: float = GUARDIAN_SECONDS
) -> Iterator[None]:
    """Own the run's directory, empty but for `files` (mode 0600), during the block; it is removed at the end.

    Raises UserError if another process owns it, if it cannot be made private, or if guardians of a former run are
    still at work after `guardian_seconds`.
    """
    with _locked(directory):
        _remove_left_overs(directory.path.parent)
        _wait_for_guardians(directory, guardian_seconds)
        segments.sweep(directory.path.glob(directory.replica_segments("*").name))
        _empty(directory.path)
        try:
            own_files.make_directory(directory.logs, flag="--log-dir")
            for path, text in files.items():
                own_files.replace(path, text.encode())
            yield
        finally:
            _empty(directory.path)
            directory.path.rmdir()


@contextlib.contextmanager
def _locked(directory: RunDirectory) -> Iterator[None]:
    """Hold the lock on the directory itself: it ends with this process, however that ends."""
    while True:
        _make_private(directory.path.parent)
        _make_private(directory.path)
        with contextlib.suppress(FileNotFoundError), _opened(directory.path) as fd:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(_taken(directory)) from None
            # A run that just ended may have removed the directory between our opening and locking it.
            if os.path.samestat(os.fstat(fd), directory.path.stat()):
                yield
                return


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield fd
    finally:
        os.close(fd)


def _remove_left_overs(runs: Path) -> None:
    """Remove the directories of jobs that were killed as a whole: no run will ever have their names again."""
    for path in runs.glob("job-*"):
        with contextlib.suppress(OSError), _opened(path) as fd:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            record = read(RunDirectory(path, path))
            guardians = [child.guardian for child in record.children.values()] if record else []
            if not any(guardian.alive for guardian in guardians):
                _empty(path)
                path.rmdir()


def _taken(directory: RunDirectory) -> str:
    record = read(directory)
    pid = record.supervisor.pid if record else None
    holder = f"process {pid} ({pids.command_line(pid)})" if pid else "another process"
    return (
        f"the run {directory.name} is already there: {holder} holds {directory.path}; "
        "end that process, or give this run another --name or --port"
    )


def _make_private(path: Path) -> None:
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    try:
        status = path.lstat()
    except FileNotFoundError:
        return  # removed by a run that ends; whoever opens it next finds that out
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise UserError(
            f"{path} is not a directory of yours, and sockets there would not be safe from other users; "
            "remove it, or set XDG_RUNTIME_DIR to a directory of your own"
        )
    if status.st_mode & 0o077:
        path.chmod(0o700)


def _wait_for_guardians(directory: RunDirectory, seconds: float) -> None:
    """If the former supervisor was killed, its guardians are about to end all that it had started."""
    record = read(directory)
    guardians = [child.guardian for child in record.children.values()] if record else []
    end = time.monotonic() + seconds
    while left := [guardian for guardian in guardians if guardian.alive]:
        if time.monotonic() > end:
            raise UserError(
                f"processes of the former run {directory.name} do not end (guardian {left[0].pid}); "
                "look for what holds them in the kernel, or give this run another --name"
            )
        time.sleep(0.02)


def _empty(path: Path) -> None:
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
