"""What joins two GPUs, as `nvidia-smi topo -m` names it, from the slowest to the fastest."""

import enum
import re
from dataclasses import dataclass
from typing import Final


class Kind(enum.IntEnum):
    """How far a transfer between two GPUs has to go; NCCL orders its paths in the same way."""

    SYS = enum.auto()
    """Through the link between two sockets."""
    NODE = enum.auto()
    """Between PCIe host bridges of one socket."""
    PHB = enum.auto()
    """Through one PCIe host bridge, usually the CPU."""
    PXB = enum.auto()
    """Through several PCIe switches."""
    PIX = enum.auto()
    """Through one PCIe switch."""
    NV = enum.auto()
    """Over NVLinks."""


_OLD: Final = {"SOC": Kind.SYS}
"""What drivers before 2018 wrote."""
_PCIE: Final = {kind.name: kind for kind in Kind if kind is not Kind.NV} | _OLD
_NVLINK_WEIGHT: Final = 100
_STEP: Final = 10


@dataclass(frozen=True, slots=True, order=True)
class Link:
    """A link; the greater of two is the faster one."""

    kind: Kind
    nvlinks: int = 0
    """How many NVLinks are bonded; 0 for all other kinds."""

    def __str__(self) -> str:
        return f"NV{self.nvlinks}" if self.kind is Kind.NV else self.kind.name

    @property
    def weight(self) -> int:
        """What the link counts in a sum: 10 for SYS up to 50 for PIX, 100 for each NVLink.

        These are the weights of NVIDIA's device plugin for Kubernetes (go-gpuallocator, best-effort policy).
        """
        return _NVLINK_WEIGHT * self.nvlinks if self.kind is Kind.NV else _STEP * self.kind


CODE: Final = re.compile(rf"NV[1-9]\d*|{'|'.join(_PCIE)}")
"""How a link is written."""


def link(code: str) -> Link:
    """The link that is written so: `NV12`, `PIX`, `SYS`. Raises ValueError for anything else."""
    if not CODE.fullmatch(code):
        raise ValueError(
            f"{code!r} is not a link; they are NV1, NV2, ..., {', '.join(k.name for k in _fastest_first())}"
        )
    return Link(Kind.NV, int(code[2:])) if code not in _PCIE else Link(_PCIE[code])


def _fastest_first() -> list[Kind]:
    return sorted((kind for kind in Kind if kind is not Kind.NV), reverse=True)
