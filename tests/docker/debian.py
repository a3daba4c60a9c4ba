"""What is taken from Debian where no Docker engine and no registry can be reached: the engine's programs, and a root
file system with Python for images to stand on. The test bed for Slurm has its programs from here too.

Both are kept in a folder of the user's cache. Nothing is installed: packages are only unpacked.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dp-vllm" / "docker"

_RELEASE: Final = "bookworm"
_PACKAGES: Final = ("docker.io", "debootstrap", "iptables")
_PYTHON_PACKAGES: Final = ("python3", "python3-pip", "ca-certificates")
_COMPILER_PACKAGES: Final = (*_PYTHON_PACKAGES, "gcc", "libc6-dev", "python3-dev")
_NOT_NEEDED: Final = ("./var/cache/apt", "./var/lib/apt/lists", "./usr/share/doc", "./usr/share/man", "./dev")
_SECONDS: Final = 300.0


class Failed(Exception):
    """A program that prepares the engine failed; the message is one line for people."""


def environment() -> dict[str, str]:
    """Variables with which the unpacked programs find each other, their libraries and their data."""
    root = _programs()
    (libraries,) = (root / "usr/lib").glob("*-linux-gnu")
    return {
        "PATH": f"{root}/usr/sbin:{root}/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LD_LIBRARY_PATH": str(libraries),
        "XTABLES_LIBDIR": str(libraries / "xtables"),
        "DEBOOTSTRAP_DIR": str(root / "usr/share/debootstrap"),
    }


def python_root() -> Path:
    """A tar file with a minimal Debian that has `python3` and pip. Made once, in about 40 s."""
    return _root("python", "a Debian with Python, as a base for images", _PYTHON_PACKAGES)


def compiler_root() -> Path:
    """The same with what compiling a module of Python takes. Made once, in about a minute."""
    return _root("compiler", "a Debian with Python and a C compiler, to build images with", _COMPILER_PACKAGES)


def _root(name: str, what: str, packages: Sequence[str]) -> Path:
    archive = CACHE / f"{_RELEASE}-{name}.tar"
    if not archive.exists():
        with _made_once(what, CACHE) as folder:
            words = ("--variant=minbase", f"--include={','.join(packages)}", _RELEASE, f"{folder}/root")
            _run("debootstrap", *words, variables=environment())
            excluded = (f"--exclude={path}/*" for path in _NOT_NEEDED)
            _run("tar", "-C", f"{folder}/root", "-cf", f"{folder}/root.tar", "--numeric-owner", *excluded, ".")
            (folder / "root.tar").rename(archive)
    return archive


def _programs() -> Path:
    return unpacked(CACHE / "programs", "Docker", _PACKAGES, {"iptables": "xtables-nft-multi"})


def unpacked(root: Path, what: str, packages: Sequence[str], alternatives: Mapping[str, str]) -> Path:
    """The folder `root`, into which packages and those of their dependencies that are missing are unpacked once.

    `alternatives` are links in `usr/sbin`: what Debian's alternatives system does when a package is installed.
    """
    if not root.exists():
        with _made_once(f"{what}'s programs, from Debian's packages", root.parent) as folder:
            for package in _downloaded(folder, packages):
                _run("dpkg", "-x", str(package), f"{folder}/root")
            for link, program in alternatives.items():
                (folder / "root/usr/sbin" / link).symlink_to(program)
            (folder / "root").rename(root)
    return root


def _downloaded(folder: Path, packages: Sequence[str]) -> list[Path]:
    """The packages, by a package list and a download folder of our own: the machine's stay as they are."""
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    apt = ("apt-get", "-qq", "-o", f"Dir::State::Lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache")
    _run(*apt, "-o", "Debug::NoLocking=1", "update")
    getting = ("install", "-y", "--no-install-recommends", "--reinstall", "--download-only")
    _run(*apt, "-o", "Debug::NoLocking=1", *getting, *packages)  # those that the machine has already, too
    return sorted((folder / "cache/archives").glob("*.deb"))


@contextlib.contextmanager
def _made_once(what: str, cache: Path) -> Iterator[Path]:
    """A folder for the making of something that stays in the cache; says what takes so long."""
    cache.mkdir(parents=True, exist_ok=True)
    print(f"{what} ... ", end="", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=cache, prefix="making-") as folder:
        yield Path(folder)
    print(f"{time.monotonic() - started:.0f} s (once)", flush=True)


def _run(*command: str, variables: Mapping[str, str] | None = None) -> None:
    program = shutil.which(command[0], path=(variables or os.environ).get("PATH"))
    if program is None:
        raise Failed(f"{command[0]} is not here")
    done = subprocess.run(
        [program, *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=_SECONDS,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(variables or {})},
    )
    if done.returncode:
        last = (done.stdout.strip().splitlines() or ["it said nothing"])[-1]
        raise Failed(f"{command[0]} ended with {done.returncode}: {last}")
