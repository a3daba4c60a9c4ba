"""Remembers what engines compiled on this host, beside what they compiled: with the cache the memory of it goes."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dp_vllm.engine.command import Engine
from dp_vllm.local.deployment import Replica
from dp_vllm.local.gpus import TASKSET

_EAGER: Final = {"--enforce-eager", "--enforce_eager", "-O0"}
"""Words with which an engine compiles nothing."""

_SEED: Final = "--seed"


@dataclass(frozen=True, slots=True)
class Compiled:
    """The notes."""

    directory: Path

    def has(self, key: str) -> bool:
        """Whether engines with this command compiled their model before."""
        return (self.directory / key).exists()

    def note(self, key: str) -> None:
        """They have. Without a cache nothing is noted; a note that cannot be written costs the next start some time."""
        try:
            self.directory.mkdir(exist_ok=True)
            (self.directory / key).touch()
        except OSError:
            return


def beside_cache(environ: Mapping[str, str]) -> Compiled:
    """In the directory of vLLM's compile cache, found as vLLM finds it."""
    base = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or "/root", ".cache")
    root = Path(environ.get("VLLM_CACHE_ROOT") or Path(base, "vllm")).expanduser()
    return Compiled(root / "torch_compile_cache" / "dp-vllm")


def key_of(engine: str, replica: Replica) -> str:
    """The same for replicas whose engines compile the same: whose commands differ in their places and seeds alone."""
    argv = replica.command.argv[3:] if replica.command.argv[0] == TASKSET else replica.command.argv
    place = {replica.address.removeprefix("unix:"), replica.address.rpartition(":")[2]}
    before = ("", *argv)
    words = [engine, *(word for word, last in zip(argv, before, strict=False) if word not in place and last != _SEED)]
    return hashlib.sha256("\0".join(words).encode(errors="surrogateescape")).hexdigest()[:32]


def staged(replicas: Sequence[Replica], engine: Engine, notes: Compiled) -> tuple[Replica, ...]:
    """The replicas, each with the key of what it shares with others; without one if it would wait for nothing."""
    keys = [key_of(engine.name, replica) for replica in replicas]
    counts = Counter(keys)

    def shares(replica: Replica, key: str) -> bool:
        done = not engine.simulated and notes.has(key)
        return counts[key] > 1 and not done and not _EAGER & set(replica.command.argv)

    return tuple(
        replace(replica, shares=key) if shares(replica, key) else replica
        for replica, key in zip(replicas, keys, strict=True)
    )
