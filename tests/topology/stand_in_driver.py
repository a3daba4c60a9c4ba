"""A stand-in NVIDIA driver: a library of our own by the name of NVIDIA's, and the file that it answers from."""

import itertools
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dp_vllm.topology.link import Kind, Link
from dp_vllm.topology.matrix import Matrix

LEVELS = {Kind.PIX: 10, Kind.PXB: 20, Kind.PHB: 30, Kind.NODE: 40, Kind.SYS: 50}


@dataclass(frozen=True, slots=True)
class Driver:
    """Where it is installed."""

    directory: Path

    @property
    def environ(self) -> dict[str, str]:
        """What makes a process load it."""
        return {"LD_LIBRARY_PATH": str(self.directory), "NVML_STAND_IN": str(self._answers)}

    def says(self, lines: Iterable[str]) -> None:
        self._answers.write_text("".join(f"{line}\n" for line in lines))

    def has(self, matrix: Matrix, *further: str) -> None:
        """Make the machine that the matrix is of."""
        self.says([*lines(matrix), *further])

    @property
    def _answers(self) -> Path:
        return self.directory / "answers"


def install(directory: Path) -> Driver:
    """Build the library into this directory."""
    source = Path(__file__).with_name("stand_in_nvml.c")
    library = directory / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source], check=True, timeout=60)
    return Driver(directory)


def uuid(index: int) -> str:
    return f"GPU-{index:08x}-0000-4000-8000-000000000000"


def bus(index: int) -> str:
    return f"00000000:{index + 16:02X}:00.0"


def lines(matrix: Matrix) -> list[str]:
    """The machine as the stand-in reads it. Where all GPUs are joined alike by NVLinks, it has switches."""
    places = range(len(matrix.gpus))
    pairs = list(itertools.combinations(places, 2))
    links = {matrix.link(*pair) for pair in pairs}
    has_switches = len(links) == 1 and len(places) > 2 and next(iter(links)).kind is Kind.NV
    said = [
        f"gpu {uuid(place)} {bus(place)} {_mask(gpu.numa)} {_mask(gpu.cpus)}" for place, gpu in enumerate(matrix.gpus)
    ]
    said += [f"pcie {one} {other} {LEVELS.get(matrix.link(one, other).kind, 50)}" for one, other in pairs]
    if has_switches:
        said += [f"nvlink {place} 2 -" for place in places for _ in range(min(links).nvlinks)]
    else:
        said += [line for pair in pairs for line in _bridge(matrix.link(*pair), *pair)]
    return said


def _bridge(link: Link, one: int, other: int) -> list[str]:
    return [f"nvlink {one} 0 {bus(other)}", f"nvlink {other} 0 {bus(one).lower()}"] * link.nvlinks


def _mask(numbers: str) -> str:
    """`0-2,5` as hexadecimal bits; only the first 64 of them, which do for our purposes."""
    mask = 0
    for part in numbers.split(",") if numbers else ():
        first, _, last = part.partition("-")
        mask |= sum(1 << number for number in range(int(first), int(last or first) + 1))
    return f"{mask & 2**64 - 1:x}"
