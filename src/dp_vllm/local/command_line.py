"""From the words of `dp-vllm serve` to the deployment that they ask for: reads what must be read, starts nothing."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dp_vllm import api_keys
from dp_vllm.engine.flags import Typed
from dp_vllm.errors import BadSettings
from dp_vllm.local import compiled, engines, model_files, models, occupied, runs
from dp_vllm.local.arrange import arrange, engine_config
from dp_vllm.local.deployment import Deployment, Replica
from dp_vllm.local.flags import config_file, split
from dp_vllm.local.flags.settings import Settings
from dp_vllm.local.flags.split import Asked
from dp_vllm.local.gpus import Visible, visible_to
from dp_vllm.local.model_files import Held
from dp_vllm.local.models import Model
from dp_vllm.local.place import directory_of, listen_of
from dp_vllm.local.run_directory import SOCKET_PATH_BYTES
from dp_vllm.local.slurm.allocation import Allocation, allocation, doubts
from dp_vllm.local.slurm.spread import Room, Spread

_MEMORY_SHARE: Final = "--gpu-memory-utilization"
"""Whoever says how much of a GPU's memory an engine takes may mean to share it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What `dp-vllm serve` is to do."""

    what: Deployment | Spread
    """Over several nodes what each of them does is only known when they have met."""
    dry_run: bool
    json: bool

    @property
    def deployment(self) -> Deployment:
        """What is done on this machine; if it is one of several, as if all were like it."""
        return self.what.alike() if isinstance(self.what, Spread) else self.what


def understand(words: Sequence[str], environ: Mapping[str, str]) -> Request | None:
    """What the command line asks for; None if it asks for help. Raises DpVllmError with a sentence if it cannot be."""
    items = split.FLAGS.read(words)
    if split.wants_help(items):
        return None
    asked = divided(items, environ)
    settings = asked.settings
    if settings.json and not settings.dry_run:
        raise BadSettings("--json goes with --dry-run, whose table it prints as JSON")
    demand_usable(settings)
    job = allocation(environ)
    directory = directory_of(settings, job, environ)
    held = model_files.read(settings.file) if settings.file else None
    engine, notes = engines.find(settings.engine, environ)
    wanted, left_out = models_of(asked, held, engine_config(asked, directory), environ)
    if held is not None and not engine.simulated:
        model_files.demand_there(wanted)
    if settings.seed_per_replica:
        wanted = tuple(models.seeded(model, asked.config) for model in wanted)
    visible = visible_to(engine, settings.device_ids, environ)

    def arranged(first: int, models: Sequence[Model]) -> Deployment:
        deployment = arrange(asked, models, engine, visible, directory, environ, job, first=first)
        replicas = deployment.replicas
        demand_free(replicas, models, deployment.name, environ)

        def more(present: Sequence[Replica], count: int, name: str) -> tuple[Replica, ...]:
            found = deployment.more(present, count, name)
            demand_free(found, models, deployment.name, environ)
            return found

        if settings.staged_start:
            replicas = compiled.staged(replicas, engine, compiled.beside_cache(environ))
        warnings = (*notes, *left_out, *doubts(environ, job), *deployment.warnings)
        return replace(deployment, replicas=replicas, more=more, warnings=warnings)

    if job is None or not job.several:
        return Request(arranged(0, wanted), settings.dry_run, settings.json)
    spread = Spread(
        job=job,
        room=_room(settings, job, visible),
        copies=settings.data_parallel_size,
        listen=listen_of(settings, job),
        logs=directory.logs,
        seconds=settings.node_timeout_seconds,
        arranged=lambda first, copies: arranged(first, [replace(wanted[0], copies=copies)]),
    )
    return Request(spread, settings.dry_run, settings.json)


def _room(settings: Settings, job: Allocation, visible: Visible | None) -> Room:
    """What this node of several has to offer. Raises BadSettings for what is of use on one alone."""
    if settings.file:
        raise BadSettings("--file: several models are served on one node alone; give srun --nodes=1")
    if settings.replica_ports is not None:
        raise BadSettings("--replica-ports: in a run over several nodes engines listen on unix sockets; leave it out")
    gpus = len(visible.ids) if visible else None
    return Room(job.node, gpus, None if gpus is None else gpus // models.sizes(settings).gpus)


def models_of(
    asked: Asked, held: Held | None, config: Path | None, environ: Mapping[str, str]
) -> tuple[tuple[Model, ...], tuple[str, ...]]:
    """The models to serve, those that files hold or the one that was typed; and what is not used of what was said.

    `config` is the file that the engines of the latter are to read.
    """
    if held is None:
        return (models.typed(asked, config),), ()
    settings = asked.settings
    admin_keys = bool(settings.admin_api_key or settings.api_key_file)
    keys = admin_keys or bool(settings.api_key)
    found = models.written(held.models, environ, keys=keys, admin_keys=admin_keys)
    return found, (*held.left_out, *filter(None, map(models.left_out, held.models)))


def demand_free(replicas: Sequence[Replica], models: Sequence[Model], name: str, environ: Mapping[str, str]) -> None:
    """Raise UserError if another run than `name` has one of their GPUs, unless their memory is to be shared."""
    if not all(_MEMORY_SHARE in model.flags for model in models):
        others = {other: record for other, record in runs.running(environ).items() if other != name}
        occupied.demand_free(replicas, others)


def divided(items: Sequence[Typed], environ: Mapping[str, str], *, needs_model: bool = True) -> Asked:
    """The flags and those of the `--config` file, between the endpoint and the engine. Raises BadSettings."""
    path = split.config_path(items)
    file = config_file.load(Path(path), split.FLAGS) if path is not None else None
    return split.divide(items, file, environ, needs_model=needs_model)


def demand_usable(settings: Settings) -> None:
    """Raise BadSettings for paths that cannot serve, before a child stumbles over them."""
    paths = {
        "--api-key-file": settings.api_key_file,
        "--ssl-certfile": settings.ssl_certfile,
        "--ssl-keyfile": settings.ssl_keyfile,
        "--ssl-ca-certs": settings.ssl_ca_certs,
    }
    for name, path in paths.items():
        if path is not None and not (path.is_file() and os.access(path, os.R_OK)):
            raise BadSettings(f"{name}: {str(path)!r} is not a file that can be read")
    if settings.api_key_file is not None:
        _demand_keys(settings.api_key_file)
    if settings.uds is not None:
        size = len(os.fsencode(settings.uds))
        if size > SOCKET_PATH_BYTES:
            raise BadSettings(
                f"--uds: {str(settings.uds)!r} has {size} bytes, a socket's path at most {SOCKET_PATH_BYTES}"
            )
        if not settings.uds.absolute().parent.is_dir():
            raise BadSettings(f"--uds: {str(settings.uds)!r} is to be made in a directory that does not exist")


def _demand_keys(path: Path) -> None:
    """Raise BadSettings if the gateway would not take this key file at its start."""
    try:
        found = api_keys.read(api_keys.load(path))
    except OSError as error:
        raise BadSettings(f"--api-key-file: {str(path)!r} cannot be read: {error.strerror or error}") from error
    if found.problems or not found.keys:
        raise BadSettings(f"--api-key-file: {str(path)!r}: {found.problem or 'it holds no key'}")
