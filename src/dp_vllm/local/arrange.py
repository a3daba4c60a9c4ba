"""Makes the deployment out of what was asked, the engine that was found and the GPUs that are visible. Pure."""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from dp_vllm.engine.command import Command, Engine, Order, Sizes, replica_command
from dp_vllm.errors import BadSettings
from dp_vllm.local.deployment import Deployment, Listen, Replica
from dp_vllm.local.flags.settings import Settings
from dp_vllm.local.flags.split import Asked
from dp_vllm.local.gpus import TASKSET, Share, Visible, left_over, shares, without
from dp_vllm.local.resize import free_numbers
from dp_vllm.local.run_directory import RunDirectory

_EVERYWHERE: Final = (None, "", "0.0.0.0", "::")  # noqa: S104 - compared, not bound


def sizes(settings: Settings) -> Sizes:
    """How one replica is spread over GPUs."""
    return Sizes(
        tensor=settings.tensor_parallel_size,
        pipeline=settings.pipeline_parallel_size,
        prefill_context=settings.prefill_context_parallel_size,
    )


def run_name(settings: Settings) -> str:
    """What the run is called: `--name`, else after where it listens."""
    if settings.name is not None:
        return settings.name
    return settings.uds.name if settings.uds else str(settings.port)


def arrange(
    asked: Asked, engine: Engine, visible: Visible | None, directory: RunDirectory, environ: Mapping[str, str]
) -> Deployment:
    """The whole deployment. `visible` is None if the engines use no GPUs."""
    settings = asked.settings
    order = Order(
        engine=engine,
        model=asked.model,
        words=asked.engine_words,
        flags=asked.engine_flags,
        config=_engine_config(asked, directory),
        sizes=sizes(settings),
    )

    def replicas(numbers: Sequence[int], shares: Sequence[Share]) -> tuple[Replica, ...]:
        return tuple(
            _replica(str(number), order, share, settings.replica_ports, directory, environ)
            for number, share in zip(numbers, shares, strict=True)
        )

    def more(present: Sequence[Replica], count: int) -> tuple[Replica, ...]:
        numbers = free_numbers([replica.name for replica in present], count)
        _demand_apart(settings, max(numbers) + 1)
        taken = {gpu for replica in present for gpu in replica.gpus}
        return replicas(numbers, _shares(settings, engine, visible, taken, count))

    copies = settings.data_parallel_size
    uds = settings.uds.absolute() if settings.uds else None
    listen = Listen(settings.host, settings.port, uds, tls=settings.ssl_certfile is not None)
    _demand_apart(settings, copies)
    return Deployment(
        model=asked.model,
        engine=engine.name,
        replicas=replicas(range(copies), _shares(settings, engine, visible, set(), copies)),
        listen=listen,
        gateway=_gateway(settings, directory, environ),
        files=_files(asked, directory),
        shutdown_timeout_seconds=settings.shutdown_timeout_seconds,
        directory=directory,
        more=more,
        warnings=(*asked.notes, *_warnings(settings, visible)),
    )


def _shares(
    settings: Settings, engine: Engine, visible: Visible | None, taken: Collection[str], copies: int
) -> Sequence[Share]:
    """The GPUs of so many copies, of those that are not taken."""
    groups = settings.gpu_groups
    if visible is None and groups and engine.simulated:
        # So that a command line can be rehearsed.
        visible = Visible(tuple(sorted({gpu for group in groups for gpu in group})), "--gpu-groups")
    if visible is not None:
        if groups and taken:
            return left_over(shares(visible, len(groups), sizes(settings), groups), taken, copies)
        return shares(without(visible, taken), copies, sizes(settings), groups)
    if groups:
        raise BadSettings(
            f"--gpu-groups: {';'.join(map(','.join, groups))} cannot be used, {engine.name} runs without GPUs"
        )
    return [Share(())] * copies


def _replica(
    name: str,
    order: Order,
    share: Share,
    ports: int | None,
    directory: RunDirectory,
    environ: Mapping[str, str],
) -> Replica:
    address = f"unix:{directory.replica_socket(name)}" if ports is None else f"127.0.0.1:{ports + int(name)}"
    command = _near(share.cpus, order, replica_command(order, address, share.gpus, environ))
    worst_link = None if share.worst_link is None else str(share.worst_link)
    return Replica(name, share.gpus, command, address, worst_link)


def _near(cpus: str, order: Order, command: Command) -> Command:
    """The command on these CPUs alone, unless its user has vLLM bind itself."""
    if not cpus or any(flag.startswith("--numa-bind") for flag in order.flags):
        return command
    return replace(command, argv=(TASKSET, "--cpu-list", cpus, *command.argv))


def _engine_config(asked: Asked, directory: RunDirectory) -> Path | None:
    if asked.config_text is not None:
        return directory.engine_config
    return asked.config.path if asked.config else None


def _files(asked: Asked, directory: RunDirectory) -> dict[Path, str]:
    files = {}
    if asked.settings.api_key:
        # With its name before it a key may hold a `=` of its own.
        named = (f"key{number}={key}\n" for number, key in enumerate(asked.settings.api_key, 1))
        files[directory.keys] = "".join(named)
    if asked.config_text is not None:
        files[directory.engine_config] = asked.config_text
    return files


def _gateway(settings: Settings, directory: RunDirectory, environ: Mapping[str, str]) -> Command:
    keys = directory.keys if settings.api_key else settings.api_key_file
    return Command(
        argv=(
            *(sys.executable, "-I", "-m", "dp_vllm_gateway"),
            *("--endpoints-file", str(directory.endpoints), "--admin-socket", str(directory.admin_socket)),
            *(("--api-key-file", str(keys)) if keys else ()),
            *settings.gateway_words,
        ),
        variables={},
        # Its words say everything; and a Kubernetes Service called dp-vllm-gateway sets DP_VLLM_GATEWAY_PORT=tcp://...
        unset=tuple(sorted(name for name in environ if name == "VLLM_API_KEY" or name.startswith("DP_VLLM_"))),
    )


def _demand_apart(settings: Settings, copies: int) -> None:
    """Raise BadSettings if the ports of so many engines leave the range or meet the endpoint's."""
    if settings.replica_ports is None:
        return
    last = settings.replica_ports + copies - 1
    span = f"{settings.replica_ports} to {last}"
    if last > 65535:
        raise BadSettings(f"--replica-ports: {copies} replicas would need the ports {span}")
    if settings.uds is None and settings.replica_ports <= settings.port <= last:
        raise BadSettings(f"--replica-ports: the replicas' ports {span} include the endpoint's own, {settings.port}")


def _warnings(settings: Settings, visible: Visible | None) -> tuple[str, ...]:
    warnings = []
    has_keys = settings.api_key or settings.api_key_file
    if not has_keys and settings.uds is None and settings.host in _EVERYWHERE:
        warnings.append(
            "everybody who reaches this machine can use the endpoint: it listens on all interfaces and asks for no "
            "key; give it --api-key KEY, or --host 127.0.0.1"
        )
    if visible and visible.doubt and _links_count(settings, visible):
        warnings.append(
            f"it is not known what joins the GPUs, so replicas get them in index order: {visible.doubt}; "
            "--gpu-groups '0,1;2,3' gives them others"
        )
    fitting = len(visible.ids) // sizes(settings).gpus if visible else 0
    if settings.data_parallel_size == 1 and fitting > 1:
        warnings.append(f"one replica leaves GPUs unused; -dp {fitting} would use all that there is room for")
    return tuple(warnings)


def _links_count(settings: Settings, visible: Visible) -> bool:
    """Whether the links between the GPUs would have decided anything."""
    chosen = 1 < sizes(settings).gpus < len(visible.ids) or settings.pipeline_parallel_size > 1
    return chosen and not settings.gpu_groups
