"""Finds a model's configuration and how large its weights are: in a directory, in the hub's cache, at the hub."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dp_vllm.engine.hub import folder

_KINDS: Final = ((".safetensors",), (".bin", ".pt", ".pth"), (".gguf",))
"""Endings of files with weights; vLLM takes the first kind that there is."""
_NO_WEIGHTS: Final = ("training_args.bin", "optimizer.", "scheduler.", "rng_state", "adapter_model.")
"""How files are called that end like weights and are none, or the same once more."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's files."""

    place: str
    """For people: a directory, `the hub`."""
    config: Any = None
    """What is in its config.json; None if that is not known."""
    weights: int = 0
    """Bytes of all weights as they are stored; 0 if that is not known."""
    unreadable: str = ""
    """What is wrong with it."""


def in_directory(directory: Path) -> Checkpoint:
    """A model in a directory of its own."""
    try:
        files = {entry.name: entry.stat().st_size for entry in os.scandir(directory) if entry.is_file()}
    except OSError as error:
        return Checkpoint(str(directory), unreadable=f"{directory} cannot be read: {error.strerror}")
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        return Checkpoint(str(directory), None, weights(files), f"{directory} has no config.json")
    except (OSError, ValueError) as error:
        return Checkpoint(str(directory), None, weights(files), f"{path} cannot be read: {error}")
    return Checkpoint(str(directory), config, weights(files))


def weights(files: Mapping[str, int]) -> int:
    """Bytes of the files that vLLM would load."""
    for endings in _KINDS:
        sizes = {
            name: size
            for name, size in files.items()
            if name.endswith(endings) and "/" not in name and not any(part in name for part in _NO_WEIGHTS)
        }
        # Mistral stores the same twice.
        single = {name: size for name, size in sizes.items() if not name.startswith("consolidated")}
        if sizes:
            return sum((single or sizes).values())
    return 0


def snapshot(model: str, revision: str, cache: Path) -> Path | None:
    """The directory of a model in the hub's cache; None if it is not there."""
    kept = folder(model, cache)
    name = revision or "main"
    try:
        commit = (kept / "refs" / name).read_text().strip()
    except OSError:
        commit = name
    found = kept / "snapshots" / commit
    return found if os.path.isdir(found) else None
