"""Looks at this machine: limits, shared memory, disks, ports, the run's directory, who holds GPUs."""

import contextlib
import os
import resource
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from dp_vllm.doctor.finding import Finding, ok, problem
from dp_vllm.doctor.nvml import Holder
from dp_vllm.doctor.of_host import UNLIMITED, Host
from dp_vllm.errors import DpVllmError
from dp_vllm.local import holders
from dp_vllm.local.deployment import Listen
from dp_vllm.local.listen import at, listening
from dp_vllm.local.run_directory import RunDirectory
from dp_vllm.local.runs import running


def host() -> Host:
    """The limits that a process started here would have."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    total, free = None, 0
    with contextlib.suppress(OSError):
        shm = os.statvfs("/dev/shm")  # noqa: S108 - looked at
        total, free = shm.f_blocks * shm.f_frsize, shm.f_bavail * shm.f_frsize
    return Host(total, free, _limit(files), _limit(locked), infiniband=_has_entries(Path("/sys/class/infiniband")))


def _limit(value: int) -> int:
    return UNLIMITED if value == resource.RLIM_INFINITY else value


def _has_entries(directory: Path) -> bool:
    try:
        return any(directory.iterdir())
    except OSError:
        return False


def free_bytes(path: Path) -> int | None:
    """What is free where this directory is, or would be made; None if it cannot be written to."""
    there = next(one for one in (path, *path.parents) if os.path.exists(one))  # also where it may not be looked into
    if not os.access(there, os.W_OK | os.X_OK):
        return None
    return shutil.disk_usage(there).free


def addresses(listen: Listen, replica_ports: int | None, copies: int) -> Iterator[Finding]:
    """Whether the endpoint's address, and the ports of the replicas if they are to have some, are free."""
    count = 0 if replica_ports is None else copies
    ports = [Listen("127.0.0.1", (replica_ports or 0) + number) for number in range(count)]
    for one, subject in ((listen, "endpoint"), *((each, "replica port") for each in ports)):
        try:
            with listening(one) as sockets:
                yield ok(subject, f"{at(one, sockets).url} is free")
        except DpVllmError as error:
            yield problem(subject, str(error))


def run(directory: RunDirectory, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the run's directory can be used, and what other runs there are."""
    others = running(environ)
    parent = next(one for one in directory.path.parents if one.exists())
    if directory.name in others:
        record = others[directory.name]
        found = f"{directory.name} is already there: process {record.supervisor.pid} serves {record.model}"
        yield problem("run", found, "end it, or give this one another --name or --port")
    elif not os.access(parent, os.W_OK | os.X_OK):
        yield problem("run", f"{parent} cannot be written to", "set XDG_RUNTIME_DIR to a directory of your own")
    else:
        yield ok("run", f"{directory.path} can be used")
    for name, record in others.items():
        if name != directory.name:
            yield ok("other run", f"{name}: {record.model} at {record.url}, process {record.supervisor.pid}")


def holder(found: Holder, *, sees_machine: bool) -> str:
    """Who holds memory of a GPU."""
    return holders.named(found.pid, sees_machine=sees_machine) or f"process {found.pid}, which cannot be seen from here"
