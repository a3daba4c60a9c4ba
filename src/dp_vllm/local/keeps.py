"""How the programs of a deployment are kept running: what is to be started, and how to read it. It starts nothing."""

import os
import socket
import sys
from collections.abc import Sequence

from dp_vllm import inherited
from dp_vllm.engine import hub
from dp_vllm.engine import log as engine_log
from dp_vllm.engine.log import Stage
from dp_vllm.local import downloading, plan, probe
from dp_vllm.local.aftermath import Aftermath
from dp_vllm.local.crashes import Crashes
from dp_vllm.local.deployment import Deployment, Replica
from dp_vllm.local.gpu_memory import GpuMemory
from dp_vllm.local.hub_access import Access, HubAccess
from dp_vllm.local.keep import Keep
from dp_vllm.local.process import Program
from dp_vllm.local.segments import Segments


def gateway(deployment: Deployment, sockets: Sequence[socket.socket]) -> Keep:
    """The gateway, which inherits these listening sockets."""
    directory = deployment.directory
    fds = tuple(each.fileno() for each in sockets)

    async def is_ready() -> bool:
        return await probe.gateway_state(directory.admin_socket) is not None

    return Keep(
        program=Program(
            name="gateway",
            argv=(*deployment.gateway.argv, *(word for fd in fds for word in ("--listen-fd", str(fd)))),
            environment=deployment.gateway.environment(os.environ),
            log=directory.gateway_log,
            fds=fds,
        ),
        limits=plan.GATEWAY,
        is_ready=is_ready,
        stage=lambda lines: None,
        address=f"unix:{directory.admin_socket}",
    )


def doors(deployment: Deployment, sockets: Sequence[socket.socket]) -> Keep:
    """What stands before the engines for a gateway on another machine: each of these sockets leads to one."""
    directory = deployment.directory
    fds = tuple(each.fileno() for each in sockets)
    pairs = zip(fds, (replica.address for replica in deployment.replicas), strict=True)

    async def is_ready() -> bool:
        return True

    return Keep(
        program=Program(
            name="doors",
            argv=(
                *(sys.executable, "-I", "-m", "dp_vllm.local.slurm.door", "--secret-file", str(directory.secret)),
                *(word for fd, address in pairs for word in ("--door", f"{fd}={address}")),
            ),
            environment={name: os.environ[name] for name in inherited.by_helper(os.environ)},
            log=directory.doors_log,
            fds=fds,
        ),
        limits=plan.GATEWAY,
        is_ready=is_ready,
        stage=lambda lines: None,
    )


def engine(deployment: Deployment, hub_access: HubAccess, replica: Replica) -> Keep:
    """The engine of one replica."""
    program = Program(
        name=f"replica-{replica.name}",
        argv=replica.command.argv,
        environment=replica.command.environment(os.environ),
        log=deployment.directory.replica_log(replica.name),
    )

    async def is_ready() -> bool:
        return await probe.is_healthy(replica.address)

    folder = hub.folder(replica.fetches, hub.cache(program.environment)) if replica.fetches else None

    def stage(lines: Sequence[str]) -> Stage | None:
        said = engine_log.stage(lines)
        if folder is None or (said and (said.percent is not None or said.phase != "Loading")):
            return said
        return downloading.stage(folder) or said

    gpu_memory = GpuMemory(replica.gpus) if replica.gpus else None
    return Keep(
        program=program,
        limits=plan.ENGINE,
        is_ready=is_ready,
        stage=stage,
        address=replica.address,
        hub=Access(hub_access, replica.name, replica.pinnable),
        models=replica.models,
        gpu_memory=gpu_memory,
        aftermath=Aftermath(
            Crashes(deployment.directory.crashes, replica, deployment.engine, program),
            Segments(deployment.directory.replica_segments(replica.name)),
            gpu_memory,
        ),
    )
