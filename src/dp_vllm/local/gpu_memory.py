"""Whether the memory of a dead engine's GPUs is back: the driver takes a while, and an engine started earlier fails.

NVML can hang with a sick driver and takes the asking process with it, so a child of ours asks, which may be given up:
`python -m dp_vllm.local.gpu_memory 0 1` prints what it found as JSON. Where it finds nothing, nothing is waited for.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from dp_vllm import inherited
from dp_vllm.local import holders

LOOK_SECONDS: Final = 5.0
"""How long the child may take."""

SHARE: Final = 0.95
"""Of what was free before the first start, this much has to be free again."""

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
        self._sees_machine = holders.sees_machine() if sees_machine is None else sees_machine
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
        found = (holders.named(pid, sees_machine=self._sees_machine) for pid in self._last.holders)
        names = list(filter(None, found))
        return f"{free} GiB are free" + (f", held by {', '.join(names)}" if names else "")


def _look(command: Sequence[str]) -> Memory:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=inherited.by_driver_probe(os.environ),
        start_new_session=True,
    )
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
