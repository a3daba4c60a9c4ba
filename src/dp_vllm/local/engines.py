"""Finds the program that `--engine` names. It looks at files and starts nothing."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from dp_vllm.engine.command import SIM, Engine, vllm
from dp_vllm.engine.version import NEWEST, SUPPORTED, version_of
from dp_vllm.errors import UserError


def find(wanted: str, environ: Mapping[str, str]) -> tuple[Engine, tuple[str, ...]]:
    """The engine, and what is to be said of it. `wanted` is `vllm`, `sim` or a path.

    Raises UserError if it is not there, or a vLLM too old to be told what replicas need.
    """
    if wanted == "sim":
        return SIM, ()
    executable = _installed(environ) if wanted == "vllm" else _at(Path(wanted))
    version = version_of(executable)
    if version is not None and version.too_old:
        raise UserError(
            f"{executable} is vLLM {version.text}, and dp-vllm works with vLLM {SUPPORTED}: "
            "pip install --upgrade vllm, or name a newer one with --engine PATH"
        )
    notes: tuple[str, ...] = ()
    if version is not None and version.too_new:
        newest = ".".join(map(str, NEWEST))
        notes = (f"vLLM {version.text} is newer than the newest that this dp-vllm was tried with ({newest})",)
    return vllm(executable, version, environ), notes


def _installed(environ: Mapping[str, str]) -> Path:
    """The `vllm` of our own Python, else the first on PATH."""
    beside = Path(sys.executable).with_name("vllm")
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("vllm", path=environ.get("PATH"))
    if found is None:
        raise UserError(
            "vllm is not installed: `pip install vllm` puts it beside dp-vllm, --engine PATH names one elsewhere, "
            "and --engine sim tries everything without a model and without GPUs"
        )
    return Path(found)


def _at(path: Path) -> Path:
    if path.is_dir():
        raise UserError(f"--engine: {path} is a directory; name the executable in it, like {path / 'bin' / 'vllm'}")
    if not path.exists():
        raise UserError(f"--engine: {path} does not exist")
    if not os.access(path, os.X_OK):
        raise UserError(f"--engine: {path} is not executable")
    return path.absolute()
