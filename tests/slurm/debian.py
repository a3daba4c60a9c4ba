"""Slurm's programs, unpacked from Debian's packages into the user's cache; nothing is installed."""

from functools import cache
from pathlib import Path
from typing import Final

from docker.debian import CACHE, unpacked

_PACKAGES: Final = ("slurmctld", "slurmd", "slurm-client", "munge")
_DAEMONS: Final = ("slurmctld", "slurmd", "slurmstepd")
"""They know what they are by the name that they are called with, and that is what the alternatives system gives."""


@cache
def programs() -> Path:
    """The folder of the programs. Made once, in a few seconds."""
    links = {name: f"{name}-wlm" for name in _DAEMONS}
    return unpacked(CACHE.with_name("slurm"), "Slurm", _PACKAGES, links)


def libraries() -> Path:
    """Where their libraries are, and Slurm's plugins in `slurm-wlm`."""
    (found,) = (programs() / "usr/lib").glob("*-linux-gnu")
    return found


def environment() -> dict[str, str]:
    """Variables with which they find each other."""
    root = programs()
    return {
        "PATH": f"{root}/usr/sbin:{root}/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LD_LIBRARY_PATH": f"{libraries()}:{libraries() / 'slurm-wlm'}",
    }
