"""Looks at one model: where its files are, and whether they can be served as asked."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dp_vllm import hub
from dp_vllm.doctor import checkpoint, look, of_host, of_model
from dp_vllm.doctor import config as configs
from dp_vllm.doctor.checkpoint import Checkpoint
from dp_vllm.doctor.finding import Finding, ok, problem, unknown
from dp_vllm.engine import hub as engine_hub


@dataclass(frozen=True, slots=True)
class Subject:
    """The model, and what it is to be served with."""

    model: str
    """A directory, or the hub's name."""
    given: Mapping[str, tuple[str, ...]]
    """The values of the engine's flags."""
    wanted: of_model.Wanted
    environ: Mapping[str, str]
    """The engine's."""
    architectures: frozenset[str]
    """Those that the engine knows by name."""
    memories: Sequence[int]
    """Bytes of each whole GPU that its replicas get."""


def examine(subject: Subject) -> Iterator[Finding]:
    """All findings."""
    model = subject.model
    if os.path.isdir(model):
        yield from _checkpoint(subject, checkpoint.in_directory(Path(model)))
    elif os.path.isfile(model):
        yield unknown("model", f"{model} is a file; only directories and models of the hub are looked into")
    elif model.startswith(("/", ".", "~")) or model.count("/") > 1:
        yield problem("model", f"there is no directory {model}", "give one with a config.json, or a model of the hub")
    else:
        yield from _of_hub(subject)


def _of_hub(subject: Subject) -> Iterator[Finding]:
    given = subject.given
    revision = "".join(given.get("--revision", ())[:1])
    kept = Path("".join(given.get("--download-dir", ())[:1]) or engine_hub.cache(subject.environ))
    there = checkpoint.snapshot(subject.model, revision, kept)
    here = checkpoint.in_directory(there) if there else None
    answer = hub.ask(subject.model, revision, subject.environ)
    if answer.silence:
        said = f"the hub was not asked: {answer.silence}"
        if here is None:
            yield unknown("model", f"{said}; {subject.model} is not in {kept}", "download it where there is a network")
        else:
            yield ok("model", f"{said}; {subject.model} is in {kept}")
    elif answer.refused and (here is None or not here.weights):
        has_token = bool(hub.token(subject.environ))
        yield of_model.access(answer.refused, absent=answer.absent, model=subject.model, has_token=has_token)
        return
    else:
        weights = checkpoint.weights(answer.files)
        missing = None if answer.absent else max(0, weights - (here.weights if here else 0))
        yield of_host.disk(str(kept), look.free_bytes(kept), missing)
        if here is None or here.config is None:
            here = Checkpoint("the hub", answer.config, weights)
        elif missing:
            here = replace(here, weights=weights)
    if here is not None:
        yield from _checkpoint(subject, here)


def _checkpoint(subject: Subject, found: Checkpoint) -> Iterator[Finding]:
    if found.unreadable:
        yield problem("model", found.unreadable, "is it the right directory, and a whole copy?")
    config = configs.read(found.config)
    if config is None:
        if not found.unreadable:
            yield unknown("model", f"what {found.place} says of the model's shape is not known")
        return
    yield from of_model.architecture(config, subject.architectures, subject.wanted)
    yield from of_model.cuts(config, subject.wanted.sizes)
    yield from of_model.length(config, subject.wanted)
    if not found.weights:
        yield unknown("memory", f"{found.place} has no weights that could be counted")
        return
    if subject.memories:
        yield of_model.room(found.weights, config, subject.wanted, min(subject.memories))
