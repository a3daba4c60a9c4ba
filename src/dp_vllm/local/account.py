"""Gives an account of a run at one moment: what its supervisor knows, as values for others. It changes nothing."""

from collections.abc import Sequence

from dp_vllm.endpoints import State
from dp_vllm.local import standing
from dp_vllm.local.child import Child
from dp_vllm.local.deployment import Deployment, Replica
from dp_vllm.local.plan import End


def of_run(
    deployment: Deployment,
    gateway: Child,
    replicas: Sequence[tuple[Replica, Child]],
    *,
    pid: int,
    began_at: float,
    generation: int,
    stopping: bool,
    now: float,
) -> standing.Run:
    """All that is known; times are readings of one monotonic clock."""
    return standing.Run(
        name=deployment.name,
        model=deployment.model,
        engine=deployment.engine,
        endpoint=deployment.listen.url,
        supervisor_pid=pid,
        seconds=round(now - began_at, 3),
        stopping=stopping,
        generation=generation,
        gateway=_program(gateway, now),
        replicas=tuple(_replica(replica, child, now) for replica, child in replicas),
    )


def _program(child: Child, now: float) -> standing.Program:
    observed = child.observed
    starting = child.state is State.STARTING
    return standing.Program(
        state=child.state,
        pid=child.pids.program.pid if child.pids else None,
        starts=child.starts,
        ready_seconds=_since(observed.ready_at, now),
        starting_seconds=_since(child.started_at, now) if starting and child.has_begun else None,
        message=child.message if starting else "",
        stage=child.stage if starting else None,
        failures=len(observed.ends),
        last_end=_end(observed.ends[-1], now) if observed.ends else None,
        stays_down=child.stays_down,
        log=str(child.log),
    )


def _replica(replica: Replica, child: Child, now: float) -> standing.Replica:
    stop = child.observed.stop
    program = _program(child, now)
    return standing.Replica(
        **{name: getattr(program, name) for name in program.__struct_fields__},
        name=replica.name,
        gpus=replica.gpus,
        worst_link=replica.worst_link,
        address=replica.address,
        models=replica.models,
        ordered=stop.then if stop else None,
        drain_seconds=max(0.0, round(stop.drain_until - now, 3)) if stop and child.observed.running else None,
    )


def _end(end: End, now: float) -> standing.End:
    ready = None if end.ready_seconds is None else round(end.ready_seconds, 3)
    folder = str(end.folder) if end.folder else None
    return standing.End(end.how, end.cause, end.last_line, round(now - end.at, 3), ready, folder)


def _since(at: float | None, now: float) -> float | None:
    return None if at is None else round(now - at, 3)
