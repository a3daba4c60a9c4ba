"""The programs that gateways are compared with, fetched once into a cache folder; nothing is installed on the system.

nginx and haproxy are taken from PATH, else unpacked from Debian's packages. The routers are put into a virtual
environment of their own. Each is optional: what cannot be had is a sentence that says why.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dp-vllm" / "bench"

VERSIONS: Final = {"vllm-router": "0.1.17", "sglang-router": "0.3.2", "py-spy": "0.4.3"}
"""Which releases of the Python packages; figures are comparable only for the same ones."""


class Missing(Exception):
    """A program cannot be had here; the message says why."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that can be started."""

    path: Path
    version: str
    libraries: str = ""
    """LD_LIBRARY_PATH; empty if the system's own do."""

    @property
    def env(self) -> dict[str, str]:
        return {"LD_LIBRARY_PATH": self.libraries} if self.libraries else {}


def debian(name: str) -> Tool:
    """nginx or haproxy: the one on PATH (or in /usr/sbin), else Debian's package unpacked beside it."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found:
        return _versioned(Tool(Path(found), ""))
    root = CACHE / f"{name}-root"
    if not (root / "usr/sbin" / name).exists():
        _unpack(name, root)
    libraries = sorted({str(path.parent) for path in root.glob("usr/lib/**/*.so*")})
    return _versioned(Tool(root / "usr/sbin" / name, "", ":".join(libraries)))


def python(name: str) -> Tool:
    """A program of a Python package, in a virtual environment of its own."""
    version = VERSIONS[name]
    venv = CACHE / f"{name}-{version}"
    path = venv / "bin" / name
    if not path.exists():
        _run(sys.executable, "-m", "uv", "venv", "-q", "--clear", "--python", sys.executable, str(venv))
        _run(sys.executable, "-m", "uv", "pip", "install", "-q", "--python", f"{venv}/bin/python", f"{name}=={version}")
    return Tool(path, version)


def _unpack(name: str, root: Path) -> None:
    """Download the package and what it needs that the system lacks, and unpack all of it under `root`."""
    if shutil.which("apt-get") is None:
        raise Missing(f"{name} is not on PATH, and there is no apt-get to fetch it with")
    packages = _lacking(name)
    downloads = CACHE / f"{name}-packages"
    downloads.mkdir(parents=True, exist_ok=True)
    _run("apt-get", "download", *packages, cwd=downloads)
    for package in downloads.glob("*.deb"):
        _run("dpkg", "-x", str(package), str(root))
    shutil.rmtree(downloads)


def _lacking(name: str) -> list[str]:
    plan = ["apt-get", "--simulate", "--no-install-recommends", "install", name]
    try:
        output = _run(*plan)
    except Missing:
        if os.geteuid() != 0:
            raise
        _run("apt-get", "update", "-qq")
        output = _run(*plan)
    return re.findall(r"^Inst (\S+)", output, re.MULTILINE)


def _versioned(tool: Tool) -> Tool:
    said = subprocess.run([tool.path, "-v"], env=os.environ | tool.env, capture_output=True, text=True, check=False)
    match = re.search(r"\d+\.\d+(\.\d+)?", said.stdout + said.stderr)
    if not match:
        raise Missing(f"{tool.path} does not run: {(said.stdout + said.stderr).strip()[-200:]}")
    return Tool(tool.path, match[0], tool.libraries)


def _run(*argv: str, cwd: Path | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"`{' '.join(argv)}` failed: {done.stderr.strip()[-300:]}")
    return done.stdout
