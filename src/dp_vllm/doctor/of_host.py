"""Judges what this machine gives to processes: shared memory, files, locked memory, disk. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dp_vllm.doctor.finding import Finding, ok, problem, size, unknown, warning
from dp_vllm.engine.command import Sizes

_GIB: Final = 2**30
_DOCKERS: Final = 64 * 2**20
"""What docker gives without --ipc=host or --shm-size."""
_SHM: Final = "/dev/shm"  # noqa: S108 - named
_FEW_FILES: Final = 4096
UNLIMITED: Final = -1


@dataclass(frozen=True, slots=True)
class Host:
    """What was found; sizes in bytes."""

    shm_total: int | None = None
    """None if there is no /dev/shm."""
    shm_free: int = 0
    files: int = UNLIMITED
    """How many one process may open, after it raised its own limit as far as it may."""
    locked: int = UNLIMITED
    """How much memory one process may lock."""
    infiniband: bool = False


def shared_memory(host: Host, replicas: int, sizes: Sizes) -> Iterator[Finding]:
    """The processes of a replica on several GPUs, and NCCL, speak through it: one on two GPUs maps 700 MB."""
    if host.shm_total is None:
        yield problem(_SHM, "it is not there", "mount it: mount -t tmpfs tmpfs /dev/shm")
        return
    found = f"{size(host.shm_free)} of {size(host.shm_total)} are free"
    wanted = replicas * _GIB
    more = "in docker --ipc=host or --shm-size=16g, in a pod an emptyDir with medium: Memory"
    if sizes.gpus == 1 or host.shm_free >= wanted:
        yield ok(_SHM, found)
    elif host.shm_total <= _DOCKERS:
        yield problem(_SHM, f"{found}, which is docker's default and too little for GPUs that work together", more)
    else:
        yield warning(_SHM, f"{found}; {replicas} replicas on {sizes.gpus} GPUs each may want {size(wanted)}", more)


def open_files(host: Host) -> Finding:
    """A request that is served takes two: the client's connection and the engine's."""
    if UNLIMITED < host.files < _FEW_FILES:
        return warning(
            "open files",
            f"at most {host.files} for one process: the gateway carries half as many requests",
            "raise the hard limit: `ulimit -Hn`, LimitNOFILE= of systemd, --ulimit nofile=65536 of docker",
        )
    return ok("open files", "without limit" if host.files == UNLIMITED else f"{host.files} for one process")


def locked_memory(host: Host, sizes: Sizes) -> Iterator[Finding]:
    """InfiniBand cards read locked memory, and NCCL takes them where it finds them."""
    if not host.infiniband or sizes.gpus == 1:
        return
    if host.locked == UNLIMITED:
        yield ok("locked memory", "without limit")
        return
    yield warning(
        "locked memory",
        f"{size(host.locked)} for one process, and NCCL locks more where there is InfiniBand",
        "ulimit -l unlimited, LimitMEMLOCK=infinity of systemd, --ulimit memlock=-1 of docker",
    )


def disk(path: str, free: int | None, missing: int | None) -> Finding:
    """Whether what is still to be downloaded has room."""
    if missing == 0:
        return ok("disk", f"the weights are in {path} already")
    if free is None:
        return unknown("disk", f"{path} cannot be looked at", "set HF_HOME to a directory that you may write to")
    if missing is None:
        return ok("disk", f"{size(free)} free in {path}; how much is to be downloaded is not known")
    said = f"{size(missing)} are to be downloaded to {path}, {size(free)} are free"
    if free < missing:
        return problem("disk", said, "make room, or set HF_HOME to a directory on a larger disk")
    return ok("disk", said)
