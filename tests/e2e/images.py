"""The images that pods of these tests run, as one archive in the cache: built again only if what is in them changed."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cluster.binaries import CACHE
from docker.engine import found_or_started
from docker.images import DOCKERFILE, ROOT, TEST_REPOSITORY, build, import_bases, tag

TARGETS: Final = ("operator", "gateway", "sim")
ARCHIVE_VARIABLE: Final = "DP_VLLM_TEST_IMAGES"
"""Environment variable that `run.py` sets for the tests: where the archive is."""

_FOLDER: Final = CACHE / "images"
_KEPT: Final = 2
_SAVE_SECONDS: Final = 300.0


def archive() -> Path:
    """All images, for `docker load` and its like."""
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with (_FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = _FOLDER / f"{_digest()}.tar"
        if path.exists():
            path.touch()
        else:
            _build(path)
        for old in sorted(_FOLDER.glob("*.tar"), key=lambda one: one.stat().st_mtime)[:-_KEPT]:
            old.unlink()
        return path


def _build(path: Path) -> None:
    with found_or_started() as docker:
        if docker.own:
            import_bases(docker)
        words = ["--network=host"] if docker.own else []
        for image in build(docker, TARGETS, TEST_REPOSITORY, words):
            print(image, flush=True)
        half = path.with_suffix(".half")
        docker.run("save", "--output", str(half), *map(tag, TARGETS), seconds=_SAVE_SECONDS)
        half.rename(path)


def _digest() -> str:
    """Of what is in the images: what .dockerignore lets pass, and the recipe."""
    digest = hashlib.sha256()
    for file in _sources():
        digest.update(f"{file.relative_to(ROOT)}\0{os.access(file, os.X_OK)}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _sources() -> Iterator[Path]:
    yield DOCKERFILE
    for line in (ROOT / ".dockerignore").read_text().split():
        top = ROOT / line.removeprefix("!")
        if line.startswith("!"):
            found = sorted(top.rglob("*")) if top.is_dir() else [top]
            yield from (file for file in found if file.is_file() and "__pycache__" not in file.parts)
