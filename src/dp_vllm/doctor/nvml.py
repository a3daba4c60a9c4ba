"""What the NVIDIA driver says of each GPU: a program of its own, since a call can hang with a sick GPU.

`python -m dp_vllm.doctor.nvml` prints one line of JSON. What a GPU or a driver does not tell is left out.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from dp_vllm.topology.machine import LIMIT_SECONDS, output_of

_PROBE: Final = (sys.executable, "-I", "-m", "dp_vllm.doctor.nvml")


class Holder(msgspec.Struct, frozen=True):
    """A process that computes on a GPU."""

    pid: int
    """As the host counts; in a container it may mean nothing."""
    bytes: int = 0
    """0 if the driver does not say."""


class Card(msgspec.Struct, frozen=True):
    """One GPU."""

    uuid: str
    name: str = ""
    total: int = 0
    """Bytes of memory; 0 if the driver does not say, as all of these."""
    free: int = 0
    capability: tuple[int, ...] = ()
    """Compute capability: (9, 0)."""
    divided: bool = False
    """MIG is on."""
    nvlinks: int = 0
    """NVLinks that work."""
    fabric_waits: bool = False
    """The NVLink switches are not set up yet."""
    holders: tuple[Holder, ...] = ()


class Cards(msgspec.Struct, frozen=True):
    """All of it."""

    driver: str = ""
    cuda: tuple[int, ...] = ()
    """The newest CUDA that the driver knows: (13, 0)."""
    cards: tuple[Card, ...] = ()
    problem: str = ""
    """Why nothing is known."""


def ask(environ: Mapping[str, str], probe: Sequence[str] = _PROBE, limit_seconds: float = LIMIT_SECONDS) -> Cards:
    """Ask the driver. Takes up to the limit, and never fails."""
    output, silence = output_of(probe, environ, limit_seconds)
    try:
        return msgspec.json.decode(output, type=Cards)
    except msgspec.DecodeError:
        return Cards(problem=silence)


def cards(nvml: Any) -> Cards:
    """`nvml` is the module pynvml, as in all functions here."""
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        driver, cuda = str(nvml.nvmlSystemGetDriverVersion()), int(nvml.nvmlSystemGetCudaDriverVersion_v2())
        found = tuple(_card(nvml, handle) for handle in handles)
    except nvml.NVMLError_LibraryNotFound:
        return Cards(problem="there is no NVIDIA driver here (in docker, `--gpus all` brings it in)")
    except nvml.NVMLError as error:
        return Cards(problem=f"the NVIDIA driver says: {error}")
    return Cards(driver, (cuda // 1000, cuda % 1000 // 10), found)


def _card(nvml: Any, handle: Any) -> Card:
    memory = _said(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    mig = _said(nvml, nvml.nvmlDeviceGetMigMode, handle)
    states = (
        _said(nvml, nvml.nvmlDeviceGetNvLinkState, handle, number) for number in range(nvml.NVML_NVLINK_MAX_LINKS)
    )
    return Card(
        uuid=nvml.nvmlDeviceGetUUID(handle),
        name=_said(nvml, nvml.nvmlDeviceGetName, handle) or "",
        total=memory.total if memory else 0,
        free=memory.free if memory else 0,
        capability=tuple(_said(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle) or ()),
        divided=bool(mig and mig[0] == nvml.NVML_DEVICE_MIG_ENABLE),
        nvlinks=sum(bool(state) for state in states),
        fabric_waits=_fabric_waits(nvml, handle),
        holders=tuple(
            Holder(each.pid, each.usedGpuMemory or 0)
            for each in _said(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ()
        ),
    )


def _fabric_waits(nvml: Any, handle: Any) -> bool:
    info = nvml.c_nvmlGpuFabricInfoV_t()
    asked = _said(nvml, nvml.nvmlDeviceGetGpuFabricInfoV, handle, nvml.byref(info))
    return asked is not None and info.state in (1, 2)  # not started, in progress


def _said(nvml: Any, call: Any, *arguments: Any) -> Any:
    """None if the driver does not say."""
    try:
        return call(*arguments)
    except (nvml.NVMLError, nvml.NVMLLibraryMismatchError):
        return None


def _main() -> None:
    import pynvml  # here, so that a broken driver library can only hurt this process

    sys.stdout.buffer.write(msgspec.json.encode(cards(pynvml)))


if __name__ == "__main__":
    _main()
