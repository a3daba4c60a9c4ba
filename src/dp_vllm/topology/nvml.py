"""What the NVIDIA driver says of this machine's GPUs: a program of its own, since a call can hang with a sick GPU.

`python -m dp_vllm.topology.nvml` prints a line of JSON with the GPUs, then one with what joins them, so that the first
is there even if the driver hangs before the second. Whoever starts it sets the time limit (`machine.ask`).
"""

import itertools
import sys
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from dp_vllm.topology.link import Kind, Link
from dp_vllm.topology.near import listed

_ANCESTORS: Final = {0: Kind.PIX, 10: Kind.PIX, 20: Kind.PXB, 30: Kind.PHB, 40: Kind.NODE, 50: Kind.SYS}
"""Kinds by NVML's level of the nearest part that two GPUs share; 0 is one board, which nvidia-smi calls PIX."""
_CPU_WORDS: Final = 64
_NODE_WORDS: Final = 16
"""Sizes of NVML's bit sets, in words of 64 bits: more CPUs and NUMA nodes than a machine has."""
_FABRIC_NOT_READY: Final = (1, 2)
"""States of the NVLink fabric, not started and in progress: until it is complete, links to switches carry nothing."""


class Device(msgspec.Struct, frozen=True):
    """One GPU as the driver names it. Its index is its place: the driver sorts by PCI bus id."""

    uuid: str
    divided: bool = False
    """MIG is on: only its parts can be used."""
    parts: tuple[str, ...] = ()
    """The UUIDs of its MIG devices."""


class Devices(msgspec.Struct, frozen=True):
    """The first line."""

    devices: tuple[Device, ...] = ()
    problem: str = ""
    """Why nothing is known."""


class Joints(msgspec.Struct, frozen=True):
    """The second line."""

    links: tuple[tuple[str, ...], ...] = ()
    """A row for each GPU, as `nvidia-smi topo -m` writes them."""
    numa: tuple[str, ...] = ()
    cpus: tuple[str, ...] = ()
    problem: str = ""


def devices(nvml: Any) -> Devices:
    """The GPUs there are. `nvml` is the module pynvml, as in all functions here."""
    try:
        nvml.nvmlInit()
        return Devices(tuple(_device(nvml, handle) for handle in _handles(nvml)))
    except nvml.NVMLError_LibraryNotFound:
        return Devices(problem="there is no NVIDIA driver here (in docker, `--gpus all` brings it in)")
    except nvml.NVMLError as error:
        return Devices(problem=f"the NVIDIA driver says: {error}")


def joints(nvml: Any) -> Joints:
    """What joins the GPUs, after `devices` found some."""
    try:
        handles = _handles(nvml)
        bridges = _bridges(nvml, handles)
        codes = [["X"] * len(handles) for _ in handles]
        for one, other in itertools.combinations(range(len(handles)), 2):
            codes[one][other] = codes[other][one] = str(_link(nvml, handles, bridges, one, other))
    except nvml.NVMLError as error:
        return Joints(problem=f"the NVIDIA driver says: {error}")
    return Joints(
        links=tuple(map(tuple, codes)),
        numa=tuple(
            _list(nvml, nvml.nvmlDeviceGetMemoryAffinity, handle, _NODE_WORDS, nvml.NVML_AFFINITY_SCOPE_NODE)
            for handle in handles
        ),
        cpus=tuple(_list(nvml, nvml.nvmlDeviceGetCpuAffinity, handle, _CPU_WORDS) for handle in handles),
    )


def _handles(nvml: Any) -> list[Any]:
    return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]


def _device(nvml: Any, handle: Any) -> Device:
    uuid = nvml.nvmlDeviceGetUUID(handle)
    try:
        divided = nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    except nvml.NVMLError:  # a GPU that cannot be divided
        return Device(uuid)
    return Device(uuid, divided, tuple(_parts(nvml, handle)) if divided else ())


def _parts(nvml: Any, handle: Any) -> list[str]:
    found = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            found.append(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)))
        except nvml.NVMLError_NotFound:  # an empty place
            continue
    return found


def _bridges(nvml: Any, handles: Sequence[Any]) -> list[list[str | None]]:
    """For each GPU where its active NVLinks end: the PCI bus id of a GPU, None for a switch.

    With NVSwitches every link ends at one, and each GPU reaches all others. In a virtual machine the other end may be
    hidden; as in NCCL, that is taken for a switch.
    """
    return [_ends(nvml, handle) if _fabric_is_ready(nvml, handle) else [] for handle in handles]


def _ends(nvml: Any, handle: Any) -> list[str | None]:
    ends: list[str | None] = []
    for number in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            if not nvml.nvmlDeviceGetNvLinkState(handle, number):
                continue
        except nvml.NVMLError:  # there is no such link
            continue
        ends.append(_end(nvml, handle, number))
    return ends


def _end(nvml: Any, handle: Any, number: int) -> str | None:
    try:
        if nvml.nvmlDeviceGetNvLinkRemoteDeviceType(handle, number) == nvml.NVML_NVLINK_DEVICE_TYPE_GPU:
            return str(nvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, number).busId).lower()
    except nvml.NVMLError:
        return None
    return None


def _fabric_is_ready(nvml: Any, handle: Any) -> bool:
    info = nvml.c_nvmlGpuFabricInfoV_t()
    try:
        nvml.nvmlDeviceGetGpuFabricInfoV(handle, nvml.byref(info))
    except nvml.NVMLError:  # a GPU or a driver without a fabric
        return True
    return info.state not in _FABRIC_NOT_READY


def _link(nvml: Any, handles: Sequence[Any], bridges: Sequence[Sequence[str | None]], one: int, other: int) -> Link:
    there, back = (str(nvml.nvmlDeviceGetPciInfo(handles[gpu]).busId).lower() for gpu in (other, one))
    direct = min(bridges[one].count(there), bridges[other].count(back))
    nvlinks = direct or min(bridges[one].count(None), bridges[other].count(None))
    if nvlinks:
        return Link(Kind.NV, nvlinks)
    level = nvml.nvmlDeviceGetTopologyCommonAncestor(handles[one], handles[other])
    return Link(_ANCESTORS.get(level, Kind.SYS))


def _list(nvml: Any, ask: Any, handle: Any, words: int, *scope: int) -> str:
    """A bit set as the driver writes it elsewhere, `0-3,8`; empty if it does not say."""
    try:
        mask = sum(word << 64 * place for place, word in enumerate(ask(handle, words, *scope)))
    except nvml.NVMLError:
        return ""
    return listed({number for number in range(mask.bit_length()) if mask >> number & 1})


def _main() -> None:
    import pynvml  # here, so that a broken driver library can only hurt this process

    found = devices(pynvml)
    _say(found)
    if len(found.devices) > 1:
        _say(joints(pynvml))


def _say(line: msgspec.Struct) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    _main()
