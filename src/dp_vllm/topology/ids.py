"""Which GPU is meant by a name: an index, a UUID or the beginning of one, a MIG device's UUID."""

from collections.abc import Sequence

from dp_vllm.topology.nvml import Device


def index_of(name: str, devices: Sequence[Device]) -> int:
    """The index of the GPU that CUDA takes this for. Raises ValueError with a sentence if there is none or several."""
    if name.isdigit():
        if int(name) < len(devices):
            return int(name)
        raise ValueError(f"there is no GPU {name}, the driver has {_indexes(devices)}")
    if is_part(name):
        raise ValueError(f"{name} is a part of a divided GPU (MIG), and nothing joins parts")
    found = [index for index, device in enumerate(devices) if device.uuid.lower().startswith(name.lower())]
    if len(found) > 1:
        raise ValueError(f"{name} is the beginning of several UUIDs, those of GPU {found[0]} and GPU {found[1]}")
    if not found:
        raise ValueError(f"there is no GPU {name}, `nvidia-smi -L` lists the UUIDs")
    return found[0]


def is_part(name: str) -> bool:
    """Whether it names a MIG device."""
    return name.upper().startswith("MIG-")


def demand_part(name: str, devices: Sequence[Device]) -> None:
    """Raise ValueError with a sentence if there is no MIG device of this name."""
    # The names of old drivers, MIG-GPU-UUID/1/0, are not listed; CUDA knows them still.
    known = [part for device in devices for part in device.parts]
    if "/" not in name and name not in known:
        raise ValueError(f"there is no MIG device {name}, the driver has {', '.join(known) or 'none'}")


def _indexes(devices: Sequence[Device]) -> str:
    return ",".join(map(str, range(len(devices)))) or "none"
