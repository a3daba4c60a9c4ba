"""How much of a model has come from the hub, by the files in its cache: vLLM itself says nothing while it downloads."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dp_vllm.engine.log import Stage

UNUSED_SECONDS: Final = 60.0
"""A partial file that was not written for so long belongs to a download that was killed."""


def stage(folder: Path) -> Stage | None:
    """How far the download into a model's folder of the cache is; None while there is none.

    How much is to come stands in the list of the weights' files, which is fetched before them; small models have none.
    """
    blobs = folder / "blobs"
    partial = [size for size, written_at in _sizes(blobs, "*.incomplete") if time.time() - written_at < UNUSED_SECONDS]
    if not partial:
        return None
    whole = sum(size for size, _ in _sizes(blobs, "*")) - sum(size for size, _ in _sizes(blobs, "*.incomplete"))
    present, total = whole + sum(partial), _total(folder)
    if not total:
        return Stage("Downloading", f"downloading the model, {present / 1e9:.2g} GB so far")
    return Stage("Downloading", "downloading the model", min(99, 100 * present // total))


def _sizes(directory: Path, names: str) -> Iterator[tuple[int, float]]:
    for path in directory.glob(names):
        try:
            status = path.stat()
        except OSError:
            continue  # it was given its final name meanwhile
        yield min(status.st_size, status.st_blocks * 512), status.st_mtime  # it may have holes


def _total(folder: Path) -> int:
    """Bytes of all weights; 0 if no list says so."""
    for path in folder.glob("snapshots/*/*.index.json"):
        try:
            return int(json.loads(path.read_bytes())["metadata"]["total_size"])
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            continue
    return 0
