"""Download a model to the cache volume: the program of the download Job, run with the engine's image.

    python3 -I download.py Qwen/Qwen3-8B --revision main

It exists so that replicas find all files and need no network. Files that vLLM would not read are left out: other forms
of the same weights. It says in plain lines how far it is, tries again by itself, and if it cannot be done ends with one
sentence for a person, `Reason: what is wrong and what helps`, which is also the container's termination message.

Whatever Python an engine's image has runs it, from 3.9 on, so it uses the standard library and of huggingface_hub only
what all versions have.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import shutil
import signal
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

STATUSES = {
    "HubUnreachable": 10,
    "DownloadFailed": 11,
    "DiskFull": 20,
    "ModelGated": 21,
    "TokenRefused": 22,
    "ModelNotFound": 23,
    "CacheNotWritable": 24,
    "NoHubLibrary": 25,
    "HubNotAsked": 26,
}
"""Exit status of each reason."""
LASTING = 20
"""From this status on nothing helps but what a person does."""

LONGEST_PAUSE_SECONDS = 60.0
UNUSED_SECONDS = 60.0
"""A partial file that was not written for so long belongs to a download that was killed."""

NEVER_READ = {".h5", ".msgpack", ".onnx", ".onnx_data", ".ckpt", ".tflite", ".ot"}
"""Weights for other programs than vLLM."""
SECOND_CHOICE = {".bin", ".pt", ".pth", ".gguf"}
"""Weights that vLLM does not read if their directory has safetensors."""
WEIGHTS = {".safetensors", *SECOND_CHOICE}
COPIES = {"original", "metal"}
"""Directories that have the weights again, in their maker's own form."""


class Trouble(Exception):
    """Why the download cannot be done, and what helps."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(f"{reason}: {sentence}")
        self.status = STATUSES[reason]


@dataclass(frozen=True)
class File:
    """One file of a model at the hub."""

    name: str
    size: int
    blob: str
    """What the cache calls its content."""

    @classmethod
    def of(cls, sibling: RepoSibling) -> File:
        blob = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
        return cls(sibling.rfilename, sibling.size or 0, str(blob))


def unwanted(files: list[File]) -> set[File]:
    """The files that vLLM would not read."""
    directories = {PurePosixPath(file.name).parent for file in files if file.name.endswith(".safetensors")}

    def is_unwanted(path: PurePosixPath) -> bool:
        a_copy = path.suffix in WEIGHTS and path.parts[0] in COPIES
        return path.suffix in NEVER_READ or a_copy or (path.suffix in SECOND_CHOICE and path.parent in directories)

    return {file for file in files if is_unwanted(PurePosixPath(file.name))}


@dataclass(frozen=True)
class Place:
    """A model's place in the cache, which huggingface_hub fills."""

    model: str
    revision: str
    cache: Path

    @property
    def folder(self) -> Path:
        return self.cache / f"models--{self.model.replace('/', '--')}"

    @property
    def note(self) -> Path:
        """Where is kept which files there are to be: once they are all there, the hub is not asked."""
        return self.folder / "dp-vllm" / f"{urllib.parse.quote(self.revision, safe='')}.json"

    def write_note(self, commit: str, files: list[File]) -> None:
        with contextlib.suppress(OSError):
            self.note.parent.mkdir(parents=True, exist_ok=True)
            self.note.write_text(json.dumps({"commit": commit, "files": {file.name: file.size for file in files}}))

    def is_complete(self) -> bool:
        """Whether every file of the note is there."""
        try:
            note = json.loads(self.note.read_text())
            snapshot = self.folder / "snapshots" / note["commit"]
            return all((snapshot / name).stat().st_size == size for name, size in note["files"].items())
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return False

    def looks_complete(self) -> bool:
        """Whether somebody else put it here: a configuration, and all weights that its index names."""
        try:
            snapshot = self.folder / "snapshots" / (self.folder / "refs" / self.revision).read_text().strip()
            names = {path.name for path in snapshot.iterdir() if path.is_file()}
            kind = ".safetensors" if any(name.endswith(".safetensors") for name in names) else ".bin"
            indexes = [
                json.loads((snapshot / name).read_text()) for name in names if name.endswith(f"{kind}.index.json")
            ]
            shards = {shard for index in indexes for shard in index["weight_map"].values()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return False
        weights = {name for name in names if name.endswith(kind)}
        return not self.note.exists() and bool({"config.json", "params.json"} & names and weights) and shards <= names

    def present(self, file: File, commit: str) -> int:
        """How many bytes of a file are here."""
        for path in (self.folder / "snapshots" / commit / file.name, self.folder / "blobs" / file.blob):
            with contextlib.suppress(OSError):
                return path.stat().st_size
        sizes = [0]
        for path in (self.folder / "blobs").glob(f"{file.blob}.*incomplete"):
            with contextlib.suppress(OSError):
                status = path.stat()
                sizes.append(min(status.st_size, status.st_blocks * 512))  # it may have holes
        return min(file.size, max(sizes))

    def remove_remains(self) -> None:
        """Delete partial files of killed downloads: newer versions of the library never go on with them."""
        for path in (self.folder / "blobs").glob("*.*.incomplete"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > UNUSED_SECONDS:
                    path.unlink()


@dataclass
class Attempt:
    """One try to download, made in a thread so that its progress can be told beside it."""

    hub: HfApi
    place: Place
    commit: str = ""
    files: list[File] = field(default_factory=list)
    error: Exception | None = None

    def run(self) -> None:
        try:
            self._run()
        except Exception as error:
            self.error = error

    def _run(self) -> None:
        place = self.place
        info = self.hub.model_info(place.model, revision=place.revision, files_metadata=True, timeout=30)
        found = [File.of(sibling) for sibling in info.siblings or ()]
        without = unwanted(found)
        self.commit, self.files = str(info.sha), [file for file in found if file not in without]
        place.cache.mkdir(parents=True, exist_ok=True)
        disk, missing = shutil.disk_usage(place.cache), self.size - self.present
        if disk.total and disk.free < missing:
            raise Trouble("DiskFull", f"{place.model} needs {gigabytes(missing)} GB more, and the cache volume has"
                          f" {gigabytes(disk.free)} GB free: give it a larger one")  # fmt: skip
        place.write_note(self.commit, self.files)
        self.hub.snapshot_download(
            place.model,
            revision=place.revision,
            cache_dir=str(place.cache),
            ignore_patterns=sorted(file.name for file in without) or None,
        )

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def present(self) -> int:
        return sum(self.place.present(file, self.commit) for file in self.files)

    @property
    def progress(self) -> str:
        size, present = self.size, self.present
        return f"downloading the model, {100 * present // size} %, {gigabytes(present)} of {gigabytes(size)} GB"


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.0f}" if count >= 1e10 else f"{count / 1e9:.2g}"


class Watch:
    """For how long a download has not moved."""

    def __init__(self) -> None:
        self._moved = time.monotonic()
        self._present = 0

    def see(self, present: int) -> None:
        if present > self._present:
            self._moved, self._present = time.monotonic(), present

    @property
    def idle_seconds(self) -> float:
        return time.monotonic() - self._moved


def download(hub: HfApi, place: Place, progress_seconds: float, give_up_seconds: float) -> str:
    """Download a model in as many tries as it takes; where it is then. Raises Trouble."""
    here = f"{place.model} is on the cache volume"
    if place.is_complete():
        return here
    place.remove_remains()
    watch = Watch()
    while True:
        attempt = Attempt(hub, place)
        error = follow(attempt, watch, progress_seconds, give_up_seconds)
        if error is None:
            place.remove_remains()
            return f"{here}, {gigabytes(attempt.size)} GB"
        trouble = trouble_of(error, place)
        if place.looks_complete():
            return f"{here}, put there by somebody else; the hub was asked in vain: {trouble}"
        pause = min(max(watch.idle_seconds / 2, 1), LONGEST_PAUSE_SECONDS)
        if trouble.status >= LASTING or watch.idle_seconds + pause > give_up_seconds:
            raise trouble
        say(f"the download goes on in {pause:.0f} s: {trouble}")
        time.sleep(pause)


def follow(attempt: Attempt, watch: Watch, progress_seconds: float, give_up_seconds: float) -> Exception | None:
    """Tell the progress until the attempt ends, or nothing comes any more; why it failed."""
    thread = threading.Thread(target=attempt.run, daemon=True)
    thread.start()
    begun = time.monotonic()
    while thread.is_alive():
        thread.join(progress_seconds)
        watch.see(attempt.present)
        if thread.is_alive() and attempt.size:
            say(attempt.progress)
        if thread.is_alive() and min(watch.idle_seconds, time.monotonic() - begun) > give_up_seconds:
            return Trouble("HubUnreachable", f"nothing of {attempt.place.model} came for {give_up_seconds:.0f} s")
    return attempt.error


def trouble_of(error: Exception, place: Place) -> Trouble:
    """What a person is told of an error."""
    if isinstance(error, Trouble):
        return error
    model, known, said = place.model, set(marks(error)), first_line(error)
    url = f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co').rstrip('/')}/{model}"
    token = "another token" if os.environ.get("HF_TOKEN") else "a token"
    if known & {errno.ENOSPC, errno.EDQUOT}:
        return Trouble(
            "DiskFull", f"the cache volume became full before all of {model} was there: give it a larger one"
        )
    if known & {errno.EACCES, errno.EROFS}:
        return Trouble("CacheNotWritable", f"user {os.getuid()} cannot write to the cache volume: {said}")
    if "OfflineModeIsEnabled" in known:
        return Trouble("HubNotAsked", f"HF_HUB_OFFLINE is set, and {model} is not on the cache volume")
    if "GatedRepoError" in known:
        return Trouble("ModelGated", f"accept the licence at {url} and set hfTokenSecretRef to {token} of that user")
    if "RevisionNotFoundError" in known:
        return Trouble("ModelNotFound", f"{model} has no revision {place.revision}")
    if known & {"RepositoryNotFoundError", "HFValidationError", 404}:
        return Trouble("ModelNotFound", f"there is no {url}; if it is private, set hfTokenSecretRef to {token}")
    if known & {401, 403}:
        return Trouble("TokenRefused", f"the hub refuses access to {model}: set hfTokenSecretRef to {token}")
    if known & {"HfHubHTTPError", "TransportError", "RequestException", "ConnectionError"}:
        return Trouble("HubUnreachable", f"{url} cannot be had: {said}")
    return Trouble("DownloadFailed", f"{model}: {type(error).__name__}: {said}")


def marks(error: BaseException | None) -> Iterator[str | int]:
    """What an error and those behind it are: names of classes, HTTP statuses and errnos.

    Names, for in each version of the library its classes are elsewhere.
    """
    for _ in range(20):
        if error is None:
            return
        yield from (kind.__name__ for kind in type(error).__mro__)
        yield getattr(getattr(error, "response", None), "status_code", 0)
        yield getattr(error, "errno", 0) or (errno.ENOSPC if "No space left" in str(error) else 0)
        error = error.__cause__ or error.__context__


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def fetch(model: str, revision: str, given: argparse.Namespace) -> str:
    """Make sure that a model is on the volume; where it is then. Raises Trouble."""
    if "://" in model:
        return f"{model} is read by the engine itself"
    if model.startswith(("/", ".")):
        if not Path(model).exists():
            raise Trouble("ModelNotFound", f"there is nothing at {model} on the cache volume")
        return f"{model} is on the cache volume"
    try:
        from huggingface_hub import HfApi, constants
    except ImportError as error:
        raise Trouble("NoHubLibrary", f"the engine's image has no huggingface_hub ({error})") from error
    place = Place(model, revision, Path(given.cache_dir or constants.HF_HUB_CACHE))
    return download(HfApi(), place, given.progress_seconds, given.give_up_seconds)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Download a model to the cache volume.")
    parser.add_argument("model", help="hub id, or a path on the volume")
    parser.add_argument("--revision", default="main")
    parser.add_argument(
        "--also", action="append", default=[], metavar="MODEL[@REVISION]", help="tokenizer, draft model"
    )
    parser.add_argument("--cache-dir", help="what the engines have as HF_HUB_CACHE")
    parser.add_argument("--progress-seconds", type=float, default=5.0)
    parser.add_argument("--give-up-seconds", type=float, default=600.0, help="after so long without a byte")
    given = parser.parse_args(argv)
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    # A container's first process ignores signals that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    also = [one.partition("@") for one in given.also]
    try:
        for model, revision in [(given.model, given.revision), *((name, after or "main") for name, _, after in also)]:
            say(fetch(model, revision, given))
    except Trouble as trouble:
        say(str(trouble))
        path = Path(os.environ.get("DP_VLLM_TERMINATION_LOG", "/dev/termination-log"))
        with contextlib.suppress(OSError):
            if path.exists():
                path.write_text(str(trouble))
        return trouble.status
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # a download that was given up still has its threads
