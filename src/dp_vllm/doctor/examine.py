"""Looks at one thing after the other and tells each finding at once, since some take seconds."""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dp_vllm.doctor import asked as flags
from dp_vllm.doctor import installed, look, nvml, of_gpus, of_host, of_memory, of_model, one_model
from dp_vllm.doctor.finding import Finding, ok, problem, warning
from dp_vllm.doctor.installed import Installed
from dp_vllm.doctor.nvml import Card, Cards
from dp_vllm.engine.command import Engine, Sizes
from dp_vllm.errors import DpVllmError
from dp_vllm.local import command_line, engines, holders
from dp_vllm.local.arrange import arrange
from dp_vllm.local.deployment import Deployment
from dp_vllm.local.flags.engines import values
from dp_vllm.local.flags.split import Asked
from dp_vllm.local.gpus import visible_to
from dp_vllm.local.model_files import Held
from dp_vllm.local.models import Model
from dp_vllm.local.place import directory_of, listen_of
from dp_vllm.local.slurm.allocation import Allocation, allocation
from dp_vllm.topology import ids
from dp_vllm.topology.nvml import Device


@dataclass(frozen=True, slots=True)
class _Case:
    """What was asked, and what is known of it so far."""

    asked: Asked
    environ: Mapping[str, str]
    models: tuple[Model, ...]
    """One with an empty name if only the machine is looked at."""
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

    def wanted(self, model: Model) -> of_model.Wanted:
        return flags.wanted(model, self.asked.config, self.environ)

    @property
    def largest(self) -> Sizes:
        """Of its models."""
        return max((model.sizes for model in self.models), key=lambda sizes: sizes.gpus)


def examine(asked: Asked, held: Held | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """All findings. `held` are the models of files; without any, and without a MODEL, only the machine is looked at."""
    models, left_out = command_line.models_of(asked, held, asked.config.path if asked.config else None, environ)
    case = yield from _engine(_Case(asked, environ, models))
    for text in left_out:
        yield warning("file", text, "")
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
    if not (case.engine and case.engine.simulated):
        for model in models:
            yield from _model(case, model)


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
        deployment = arrange(case.asked, case.models, case.engine, visible, directory, case.environ, case.job)
        case = replace(case, deployment=deployment)
        command_line.demand_free(deployment.replicas, case.models, directory.name, case.environ)
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


def _used(case: _Case, model: Model) -> dict[int, Card]:
    """The GPUs that the model's replicas get, by index; all where that is not known."""
    everything = dict(enumerate(case.cards.cards))
    if case.deployment is None:
        return everything
    devices = [Device(card.uuid) for card in case.cards.cards]
    used = {}
    replicas = [replica for replica in case.deployment.replicas if replica.models == model.served]
    for name in (gpu for replica in replicas for gpu in replica.gpus):
        try:
            index = ids.index_of(name, devices)
        except ValueError:  # a part of one: the driver tells its memory in another way
            continue
        used[index] = everything[index]
    return used


def _memory(case: _Case) -> Iterator[Finding]:
    sees_machine = holders.sees_machine()
    for model in case.models if case.deployment else case.models[:1]:
        used, wanted = _used(case, model), case.wanted(model)
        who = {
            index: [look.holder(one, sees_machine=sees_machine) for one in card.holders] for index, card in used.items()
        }
        yield from of_memory.held(used, who, wanted.utilization)
        yield from of_gpus.number_format(list(used.values()), wanted.dtype)


def _host(case: _Case) -> Iterator[Finding]:
    host, settings, copies = look.host(), case.asked.settings, sum(model.copies for model in case.models)
    if case.uses_gpus:
        spread = sum(model.copies for model in case.models if model.sizes.gpus > 1)
        yield from of_host.shared_memory(host, spread, case.largest)
        yield from of_host.locked_memory(host, case.largest)
    yield of_host.open_files(host)
    yield from look.addresses(listen_of(settings, case.job), settings.replica_ports, copies)


def _model(case: _Case, model: Model) -> Iterator[Finding]:
    if not model.model:
        return
    subject = one_model.Subject(
        model=model.model,
        given=values(model.words, case.asked.config),
        wanted=case.wanted(model),
        environ={**case.environ, **model.variables},
        architectures=case.installed.architectures,
        memories=[card.total for card in _used(case, model).values() if card.total and not card.divided],
    )
    for one in one_model.examine(subject):
        yield replace(one, found=f"{model.name}: {one.found}") if model.name else one
