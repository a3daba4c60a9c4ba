"""What is installed beside vLLM, read from files: importing it takes ten seconds, and may be what fails."""

import re
from dataclasses import dataclass
from pathlib import Path

from dp_vllm.engine.version import package_directories


@dataclass(frozen=True, slots=True)
class Installed:
    """What an engine runs on."""

    torch: str | None = None
    """PyTorch's version; None if there is none."""
    cuda: tuple[int, ...] | None = None
    """What it was built with; None if with none."""
    architectures: frozenset[str] = frozenset()
    """The models that this vLLM knows by name; empty if that is not known."""


def beside(executable: Path) -> Installed:
    """What the `vllm` at this path runs on."""
    torch, cuda, architectures = None, None, frozenset[str]()
    for directory in package_directories(executable):
        found = _text(directory / "torch" / "version.py")
        if torch is None and (version := re.search(r"^__version__ = ['\"](.+)['\"]", found, re.MULTILINE)):
            torch = version[1]
            built = re.search(r"^cuda\b.*= ['\"]([\d.]+)['\"]", found, re.MULTILINE)
            cuda = tuple(map(int, built[1].split("."))) if built else None
        registry = _text(directory / "vllm" / "model_executor" / "models" / "registry.py")
        architectures = architectures or frozenset(re.findall(r"^    \"(\w+)\": ", registry, re.MULTILINE))
    return Installed(torch, cuda, architectures)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
