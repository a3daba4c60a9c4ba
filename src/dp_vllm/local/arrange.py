"""Makes the deployment out of what was asked, the engine that was found and the GPUs that are visible. Pure."""

import itertools
import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dp_vllm import api_keys, hosts, inherited, names
from dp_vllm.engine import offsets
from dp_vllm.engine.command import Command, Engine, Order, Sizes, flags_in, replica_command
from dp_vllm.engine.hub import Repository, fetched, pinnable
from dp_vllm.errors import BadSettings
from dp_vllm.local.deployment import Deployment, Replica
from dp_vllm.local.division import divided, further
from dp_vllm.local.flags import engines
from dp_vllm.local.flags.settings import Settings
from dp_vllm.local.flags.split import Asked
from dp_vllm.local.gpus import TASKSET, THIS_MACHINE, Share, Visible
from dp_vllm.local.models import Model
from dp_vllm.local.place import listen_of
from dp_vllm.local.resize import free_numbers
from dp_vllm.local.run_directory import RunDirectory
from dp_vllm.local.slurm.allocation import Allocation

_FAULT_HANDLER: Final = "PYTHONFAULTHANDLER"

_LONGER_SECONDS: Final = 5
"""So much more patience have engines than their supervisor: one whose own is over never ends."""


def arrange(
    asked: Asked,
    models: Sequence[Model],
    engine: Engine,
    visible: Visible | None,
    directory: RunDirectory,
    environ: Mapping[str, str],
    job: Allocation | None = None,
    *,
    first: int = 0,
) -> Deployment:
    """The whole deployment. `visible` is None if the engines use no GPUs; `first` is the first replica's number."""
    settings = asked.settings
    # Slurm sends SIGTERM to all processes of a step. Those that answer requests go on until the supervisor ends them.
    drain = math.ceil(settings.shutdown_timeout_seconds) + _LONGER_SECONDS if job else 0
    cards = dict(zip(visible.ids, visible.cards, strict=True)) if visible and visible.cards else {}
    in_file = {name: values[0] for name, values in engines.values((), asked.config).items() if values}
    place = _Place(engine, directory, environ, drain, cards, in_file)
    groups = settings.gpu_groups
    _demand_apart(settings, sum(model.copies for model in models))

    def more(present: Sequence[Replica], count: int, name: str) -> tuple[Replica, ...]:
        model = next(model for model in models if name in model.served or not name)
        numbers = free_numbers(
            [each.name.removeprefix(f"{model.name}-") for each in present if each.models == model.served], count
        )
        _demand_apart(settings, len(present) + count)
        taken = {gpu for replica in present for gpu in replica.gpus}
        found = further(model, engine, visible, taken, count, groups)
        ports = _ports(settings, {replica.address for replica in present})
        ranks = _free_ranks({replica.rank for replica in present})
        return tuple(_replicas(model, numbers, found, ports, ranks, place))

    ports = _ports(settings, set())
    ranks = itertools.count(first)
    replicas: list[Replica] = []
    for model, shares in zip(models, divided(models, engine, visible, groups), strict=True):
        replicas += _replicas(model, range(first, first + model.copies), shares, ports, ranks, place)
    return Deployment(
        model=", ".join(model.model for model in models),
        engine=engine.name,
        replicas=tuple(replicas),
        listen=listen_of(settings, job),
        gateway=_gateway(settings, directory, environ),
        files=_files(asked, directory),
        shutdown_timeout_seconds=settings.shutdown_timeout_seconds,
        hang_timeout_seconds=settings.hang_timeout_seconds,
        directory=directory,
        more=more,
        warnings=(*asked.notes, *_warnings(settings, models, visible, job), *_meeting_events(replicas)),
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where replicas are started, and with what."""

    engine: Engine
    directory: RunDirectory
    environ: Mapping[str, str]
    drain_seconds: int
    """What engines are told of how long their requests may go on after SIGTERM; 0 for not at all."""
    cards: Mapping[str, str]
    """What the driver calls each GPU; empty if it was not asked."""
    in_file: Mapping[str, str]
    """The values of flags in the `--config` file that engines read."""


def _replicas(
    model: Model,
    numbers: Sequence[int],
    shares: Sequence[Share],
    ports: Iterator[str] | None,
    ranks: Iterator[int],
    place: _Place,
) -> Iterator[Replica]:
    """Replicas of one model by their numbers, on unix sockets if no ports are given."""
    repositories = () if place.engine.simulated else fetched(model.model, model.words).repositories
    fetches = repositories[0].name if repositories else ""
    pinned = _pinnable(model, place)
    named = "--served-model-name" in model.flags | flags_in(model.words)
    for number, share in zip(numbers, shares, strict=True):
        name = f"{model.name}-{number}" if model.name else str(number)
        socket = f"unix:{place.directory.replica_socket(name)}"
        address = socket if ports is None else next(ports)
        words = model.words if model.first_seed is None else (*model.words, "--seed", str(model.first_seed + number))
        rank = next(ranks)
        mine = offsets.own(words, place.in_file, {**place.environ, **model.variables}, rank, model.sizes.gpus)
        variables = {**model.variables, **mine.variables}
        order = Order(
            place.engine,
            model.model,
            mine.words,
            model.flags,
            model.config,
            model.sizes,
            {name: value for name, value in variables.items() if name not in inherited.kept_from_engine(variables)},
            served=model.model if pinned and not named else "",
            drain_seconds=place.drain_seconds,
        )
        command = _telling(replica_command(order, address, share.gpus, place.environ), place.environ)
        command = _near(share.cpus, order, command)
        worst_link = None if share.worst_link is None else str(share.worst_link)
        cards = tuple(place.cards[gpu] for gpu in share.gpus) if place.cards else ()
        yield Replica(
            *(name, share.gpus, command, address, cards, worst_link, model.served, fetches, pinned), rank=rank
        )


def _pinnable(model: Model, place: _Place) -> tuple[Repository, ...]:
    """All that its engine ever fetches; nothing if that is not known for certain, as beside a `--config` file."""
    if place.engine.simulated or model.config is not None:
        return ()
    return pinnable(model.model, model.words, {**place.environ, **model.variables})


def _free_ranks(taken: Collection[int]) -> Iterator[int]:
    return (rank for rank in itertools.count() if rank not in taken)


def _ports(settings: Settings, taken: Collection[str]) -> Iterator[str] | None:
    """Addresses that no replica has yet; None if they listen on unix sockets."""
    if settings.replica_ports is None:
        return None
    addresses = (f"127.0.0.1:{port}" for port in itertools.count(settings.replica_ports))
    return (address for address in addresses if address not in taken)


def _telling(command: Command, environ: Mapping[str, str]) -> Command:
    """The command, and its Python processes say where they are when they crash or are found to hang."""
    if _FAULT_HANDLER in environ:
        return command
    return replace(command, variables={_FAULT_HANDLER: "1", **command.variables})


def _near(cpus: str, order: Order, command: Command) -> Command:
    """The command on these CPUs alone, unless its user has vLLM bind itself."""
    if not cpus or any(flag.startswith("--numa-bind") for flag in order.flags):
        return command
    return replace(command, argv=(TASKSET, "--cpu-list", cpus, *command.argv))


def engine_config(asked: Asked, directory: RunDirectory) -> Path | None:
    """The `--config` file that engines are to read: the user's, or the copy of it that is theirs."""
    if asked.config_text is not None:
        return directory.engine_config
    return asked.config.path if asked.config else None


def _files(asked: Asked, directory: RunDirectory) -> dict[Path, str]:
    files = {}
    if _has_given_keys(asked.settings):
        files[directory.keys] = _key_file(asked.settings)
    if asked.config_text is not None:
        files[directory.engine_config] = asked.config_text
    return files


def _has_given_keys(settings: Settings) -> bool:
    """Whether keys were given as words or by the environment."""
    return bool(settings.api_key or settings.admin_api_key)


def _key_file(settings: Settings) -> str:
    """A file of these keys, each once."""
    admins = dict.fromkeys(settings.admin_api_key)
    keys = [key for key in dict.fromkeys(settings.api_key) if key not in admins]
    lines = [api_keys.written(f"key{number}", key) for number, key in enumerate(keys, 1)]
    lines += [api_keys.written(f"admin{number}", key, admin=True) for number, key in enumerate(admins, 1)]
    return "".join(lines)


def _gateway(settings: Settings, directory: RunDirectory, environ: Mapping[str, str]) -> Command:
    keys = settings.api_key_file or (directory.keys if _has_given_keys(settings) else None)
    admin_keys = directory.keys if settings.api_key_file and settings.admin_api_key else None
    return Command(
        argv=(
            *(sys.executable, "-I", "-m", "dp_vllm_gateway"),
            *("--endpoints-file", str(directory.endpoints), "--admin-socket", str(directory.admin_socket)),
            *(("--api-key-file", str(keys)) if keys else ()),
            *(("--host", settings.host) if settings.host else ()),  # of --metrics-port
            *(("--admin-api-key-file", str(admin_keys)) if admin_keys else ()),
            *settings.gateway_words,
        ),
        variables={},
        inherits=inherited.by_helper(environ),
    )


def _demand_apart(settings: Settings, copies: int) -> None:
    """Raise BadSettings if the ports of so many engines leave the range or meet the endpoint's."""
    if settings.replica_ports is None:
        return
    last = settings.replica_ports + copies - 1
    span = f"{settings.replica_ports} to {last}"
    if last > 65535:
        raise BadSettings(f"--replica-ports: {copies} replicas would need the ports {span}")
    port = settings.port or names.DEFAULT_PORT
    if settings.uds is None and settings.replica_ports <= port <= last:
        raise BadSettings(f"--replica-ports: the replicas' ports {span} include the endpoint's own, {port}")


def _meeting_events(replicas: Sequence[Replica]) -> Iterator[str]:
    """A warning if two engines would publish or replay events on one port, as with ports next to each other."""
    owners: dict[int, str] = {}
    for replica in replicas:
        for port in offsets.events_ports(replica.command.argv):
            if owner := owners.get(port):
                yield (
                    f"{offsets.EVENTS}: the replicas {owner} and {replica.name} both listen on port {port}, because "
                    "each adds its number: one will fail; put endpoint and replay_endpoint "
                    f"{len(replicas)} ports apart or more"
                )
                return
            owners[port] = replica.name


def _warnings(
    settings: Settings, models: Sequence[Model], visible: Visible | None, job: Allocation | None
) -> tuple[str, ...]:
    warnings = []
    has_keys = _has_given_keys(settings) or settings.api_key_file
    if not has_keys and settings.uds is None and hosts.is_everywhere(settings.host):
        warnings.append(
            "everybody who reaches this machine can use the endpoint: it listens on all interfaces and asks for no "
            "key; give it --api-key KEY, or --host 127.0.0.1"
        )
    if visible and visible.doubt and not settings.gpu_groups and any(_links_count(m.sizes, visible) for m in models):
        warnings.append(
            f"it is not known what joins the GPUs, so replicas get them in index order: {visible.doubt}"
            + ("" if settings.file else "; --gpu-groups '0,1;2,3' gives them others")
        )
    if job and visible and visible.said_by == THIS_MACHINE:
        warnings.append(
            f"Slurm says of no GPU that it is the job's, so all of {job.node} are taken to be; if others use some of "
            "them, ask for yours with --gpus-per-node"
        )
    only = models[0] if len(models) == 1 else None
    fitting = len(visible.ids) // only.sizes.gpus if visible and only and only.uses_gpus else 0
    if only and only.copies == 1 and fitting > 1:
        more = f"replicas: {fitting}" if settings.file else f"-dp {fitting}"
        warnings.append(f"one replica leaves GPUs unused; {more} would use all that there is room for")
    return tuple(warnings)


def _links_count(sizes: Sizes, visible: Visible) -> bool:
    """Whether the links between the GPUs would have decided anything."""
    return 1 < sizes.gpus < len(visible.ids) or sizes.pipeline > 1
