"""Looks at one thing after the other and tells each finding at once, since some take seconds."""

import os
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dp_vllm import hub
from dp_vllm.doctor import asked as flags
from dp_vllm.doctor import checkpoint, installed, look, nvml, of_gpus, of_host, of_memory, of_model
from dp_vllm.doctor import config as configs
from dp_vllm.doctor.checkpoint import Checkpoint
from dp_vllm.doctor.finding import Finding, ok, problem, unknown, warning
from dp_vllm.doctor.installed import Installed
from dp_vllm.doctor.nvml import Card, Cards
from dp_vllm.engine import hub as engine_hub
from dp_vllm.engine.command import Engine
from dp_vllm.errors import DpVllmError
from dp_vllm.local import engines, holders
from dp_vllm.local.arrange import arrange, engine_config
from dp_vllm.local.deployment import Deployment
from dp_vllm.local.flags.engines import values
from dp_vllm.local.flags.split import Asked
from dp_vllm.local.gpus import visible_to
from dp_vllm.local.models import sizes, typed
from dp_vllm.local.place import directory_of, listen_of
from dp_vllm.local.slurm.allocation import Allocation, allocation
from dp_vllm.topology import ids
from dp_vllm.topology.nvml import Device


@dataclass(frozen=True, slots=True)
class _Case:
    """What was asked, and what is known of it so far."""

    asked: Asked
    environ: Mapping[str, str]
    engine: Engine | None = None
    """None if there is none that works."""
    installed: Installed = field(default_factory=Installed)
    cards: Cards = field(default_factory=Cards)
    job: Allocation | None = None
    deployment: Deployment | None = None
    """None if it cannot be arranged."""

    @property
    def uses_gpus(self) -> bool:
        return self.engine is None or self.engine.uses_gpus

    @property
    def wanted(self) -> of_model.Wanted:
        return flags.wanted(self.asked, sizes(self.asked.settings), self.environ)


def examine(asked: Asked, environ: Mapping[str, str]) -> Iterator[Finding]:
    """All findings. Without a MODEL only the machine is looked at."""
    case = yield from _engine(_Case(asked, environ))
    if case.uses_gpus:
        case = replace(case, cards=nvml.ask(environ))
        yield from of_gpus.gpus(case.cards)
        yield from of_gpus.nvlinks(case.cards)
        if case.engine is not None and not case.cards.problem:
            yield from of_gpus.cuda(case.cards, case.installed)
    case = yield from _run(case)
    if case.cards.cards:
        yield from _memory(case)
    yield from _host(case)
    if asked.model and not (case.engine and case.engine.simulated):
        yield from _model(case)


def _engine(case: _Case) -> Generator[Finding, None, _Case]:
    try:
        engine, notes = engines.find(case.asked.settings.engine, case.environ)
    except DpVllmError as error:
        yield problem("engine", str(error))
        return case
    if engine.simulated:
        yield ok("engine", "the simulated engine, which needs neither a GPU nor a model")
    elif notes:
        yield warning("engine", f"{engine.name} at {engine.words[0]}", "; ".join(notes))
    else:
        yield ok("engine", f"{engine.name} at {engine.words[0]}" + ("" if engine.uses_gpus else ", for CPUs"))
    return replace(case, engine=engine, installed=installed.beside(Path(engine.words[0])))


def _run(case: _Case) -> Generator[Finding, None, _Case]:
    settings = case.asked.settings
    try:
        case = replace(case, job=allocation(case.environ))
        directory = directory_of(settings, case.job, case.environ)
    except DpVllmError as error:
        yield problem("run", str(error))
        return case
    yield from look.run(directory, case.environ)
    if case.engine is None:
        return case
    try:
        visible = visible_to(case.engine, settings.device_ids, case.environ)
        models = (typed(case.asked, engine_config(case.asked, directory)),)
        deployment = arrange(case.asked, models, case.engine, visible, directory, case.environ, case.job)
        case = replace(case, deployment=deployment)
    except DpVllmError as error:
        yield problem("replicas", str(error))
    else:
        yield from _replicas(case)
    return case


def _replicas(case: _Case) -> Iterator[Finding]:
    assert case.deployment is not None
    shown = "; ".join(f"{each.name}: {','.join(each.gpus)}" for each in case.deployment.replicas if each.gpus)
    count = len(case.deployment.replicas)
    yield ok("replicas", f"{count}, GPUs of {shown}" if shown else f"{count}, without GPUs")
    for text in case.deployment.warnings:
        yield warning("replicas", text, "")
    if case.cards.cards:
        yield from of_gpus.links(case.cards, case.deployment.replicas)


def _used(case: _Case) -> dict[int, Card]:
    """The GPUs that replicas get, by index; all where that is not known."""
    everything = dict(enumerate(case.cards.cards))
    if case.deployment is None:
        return everything
    devices = [Device(card.uuid) for card in case.cards.cards]
    used = {}
    for name in (gpu for replica in case.deployment.replicas for gpu in replica.gpus):
        try:
            index = ids.index_of(name, devices)
        except ValueError:  # a part of one: the driver tells its memory in another way
            continue
        used[index] = everything[index]
    return used


def _memory(case: _Case) -> Iterator[Finding]:
    used = _used(case)
    sees_machine = holders.sees_machine()
    who = {index: [look.holder(one, sees_machine=sees_machine) for one in card.holders] for index, card in used.items()}
    yield from of_memory.held(used, who, case.wanted.utilization)
    yield from of_gpus.number_format(list(used.values()), case.wanted.dtype)


def _host(case: _Case) -> Iterator[Finding]:
    host, settings = look.host(), case.asked.settings
    if case.uses_gpus:
        yield from of_host.shared_memory(host, settings.data_parallel_size, sizes(settings))
        yield from of_host.locked_memory(host, sizes(settings))
    yield of_host.open_files(host)
    yield from look.addresses(listen_of(settings, case.job), settings)


def _model(case: _Case) -> Iterator[Finding]:
    model = case.asked.model
    if os.path.isdir(model):
        yield from _checkpoint(case, checkpoint.in_directory(Path(model)))
    elif os.path.isfile(model):
        yield unknown("model", f"{model} is a file; only directories and models of the hub are looked into")
    elif model.startswith(("/", ".", "~")) or model.count("/") > 1:
        yield problem("model", f"there is no directory {model}", "give one with a config.json, or a model of the hub")
    else:
        yield from _of_hub(case)


def _of_hub(case: _Case) -> Iterator[Finding]:
    given = values(case.asked.engine_words, case.asked.config)
    revision = "".join(given.get("--revision", ())[:1])
    kept = Path("".join(given.get("--download-dir", ())[:1]) or engine_hub.cache(case.environ))
    there = checkpoint.snapshot(case.asked.model, revision, kept)
    here = checkpoint.in_directory(there) if there else None
    answer = hub.ask(case.asked.model, revision, case.environ)
    if answer.silence:
        said = f"the hub was not asked: {answer.silence}"
        if here is None:
            yield unknown(
                "model", f"{said}; {case.asked.model} is not in {kept}", "download it where there is a network"
            )
        else:
            yield ok("model", f"{said}; {case.asked.model} is in {kept}")
    elif answer.refused and (here is None or not here.weights):
        has_token = bool(hub.token(case.environ))
        yield of_model.access(answer.refused, absent=answer.absent, model=case.asked.model, has_token=has_token)
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
        yield from _checkpoint(case, here)


def _checkpoint(case: _Case, found: Checkpoint) -> Iterator[Finding]:
    if found.unreadable:
        yield problem("model", found.unreadable, "is it the right directory, and a whole copy?")
    config = configs.read(found.config)
    if config is None:
        if not found.unreadable:
            yield unknown("model", f"what {found.place} says of the model's shape is not known")
        return
    yield from of_model.architecture(config, case.installed.architectures, case.wanted)
    yield from of_model.cuts(config, case.wanted.sizes)
    yield from of_model.length(config, case.wanted)
    if not found.weights:
        yield unknown("memory", f"{found.place} has no weights that could be counted")
        return
    totals = [card.total for card in _used(case).values() if card.total and not card.divided]
    if totals:
        yield of_model.room(found.weights, config, case.wanted, min(totals))
