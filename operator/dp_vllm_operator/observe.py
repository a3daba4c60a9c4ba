"""Reads what a model's status needs and its plan does not: logs, warnings, nodes, the pods of gateway and download.

Each is read only if something is not as it should be. What cannot be read is left out: a status with less in it is
better than none.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Final, TypeVar

from dp_vllm import names
from dp_vllm.kubernetes_api import ApiError, Object, Unreachable
from dp_vllm_operator.causes import failed_download, trouble
from dp_vllm_operator.children import Kept
from dp_vllm_operator.cluster import Cluster
from dp_vllm_operator.logs import Logs
from dp_vllm_operator.look import Look, component
from dp_vllm_operator.model import Model
from dp_vllm_operator.observed import Download, DownloadState, Gateway, Observed
from dp_vllm_operator.plan import RolloutState
from dp_vllm_operator.progress import Progress, progress, start
from dp_vllm_operator.render.gateway import gateway_name
from dp_vllm_operator.replica import Replica
from dp_vllm_operator.trouble import Trouble

_STUCK_SECONDS: Final = 15.0
"""A pod whose containers are not made after so long on its node: its warnings say why."""

_DOWNLOAD_LINES: Final = 5

_Read = TypeVar("_Read")


async def observe(cluster: Cluster, look: Look, logs: Logs) -> Observed:
    """Everything that the model's status is made from."""
    model, plan, now = look.model, look.plan, look.now
    starting, ended = await asyncio.gather(logs.starting(look.replicas), logs.ended(look.replicas))
    troubles = await _troubles(cluster, model, look.replicas, ended, now)
    return Observed(
        replicas=look.replicas,
        troubles=troubles,
        progress=_progress(look.replicas, starting, now),
        rollout=plan.rollout if plan else RolloutState.FIRST_START,
        rollout_message=plan.message if plan else "",
        revision=look.target.revision.number if look.target.revision else None,
        ready_revision=look.ready_revision,
        gateway=_gateway(look),
        download=await _download(cluster, look),
        orphans=look.orphans,
        conflicts=look.kept.conflicts,
        refused=_invalid(look) or look.refused or look.kept.refused,
        undo_error=look.target.undo,
    )


def _progress(replicas: Sequence[Replica], starting: Mapping[str, Sequence[str]], now: float) -> dict[str, Progress]:
    return {replica.name: progress(replica, starting.get(replica.name, ()), now) for replica in replicas}


def _invalid(look: Look) -> Trouble | None:
    if look.target.invalid:
        return Trouble.of("InvalidSpec", look.target.invalid, needs_person=True)
    return look.target.refused


async def _troubles(
    cluster: Cluster, model: Model, replicas: Sequence[Replica], ended: Mapping[str, Sequence[str]], now: float
) -> dict[str, Trouble]:
    largest = None
    if any(replica.lives and replica.unscheduled for replica in replicas) and model.spec.accelerators:
        largest = await _or(None, cluster.most_accelerators(model.spec.engine.accelerator))
    found = {}
    for replica in replicas:
        seen = trouble(
            replica,
            now,
            lines=ended.get(replica.name, ()),
            warnings=await _warnings(cluster, model.namespace, replica, now),
            largest_node=largest,
            patience_seconds=model.spec.rollout.surge_timeout_seconds,
        )
        if seen is not None:
            found[replica.name] = seen
    return found


async def _warnings(cluster: Cluster, namespace: str, replica: Replica, now: float) -> list[Object]:
    stuck = (
        replica.lives and replica.bound and replica.phase == "Pending" and now - replica.waiting_since > _STUCK_SECONDS
    )
    return await _or([], cluster.warnings(namespace, replica.name, replica.uid)) if stuck else []


def _gateway(look: Look) -> Gateway | None:
    deployment = look.kept.live.get(("deployments", gateway_name(look.model)))
    if deployment is None:
        return None
    desired = deployment["spec"].get("replicas", 1)
    available = deployment.get("status", {}).get("availableReplicas", 0)
    seen = None
    if available < desired:
        pods = (pod for pod in look.others if component(pod) == names.GATEWAY)
        troubles = (trouble(Replica.of(pod), look.now) for pod in pods)
        seen = next((one for one in troubles if one is not None), None)
    return Gateway(desired=desired, available=available, trouble=seen)


async def _download(cluster: Cluster, look: Look) -> Download:
    model = look.model
    if downloaded(look.kept):
        return Download(state=DownloadState.DONE if _job(look.kept) else DownloadState.NONE)
    pods = [pod for pod in look.others if component(pod) == names.DOWNLOAD]
    if not pods:
        return Download(state=DownloadState.RUNNING, message="the download starts")
    replica = Replica.of(pods[-1])
    if failed := _last_words(pods[-1]):
        return Download(state=DownloadState.FAILED, trouble=failed)
    reading = cluster.log(model.namespace, replica.name, lines=_DOWNLOAD_LINES, container=names.DOWNLOAD)
    doing = start(await _or([], reading))
    seen = trouble(replica, look.now)
    return Download(state=DownloadState.RUNNING, percent=doing.percent, message=doing.message, trouble=seen)


def downloaded(kept: Kept) -> bool:
    """Whether the model's files are where they shall be, as far as that is the operator's to see to."""
    job = _job(kept)
    conditions = job.get("status", {}).get("conditions", ()) if job else ()
    return job is None or any(one["type"] == "Complete" and one["status"] == "True" for one in conditions)


def _job(kept: Kept) -> Object | None:
    return next((body for (plural, _), body in kept.live.items() if plural == "jobs"), None)


def _last_words(pod: Object) -> Trouble | None:
    """Why the download's container ended the last time; None if it did not fail."""
    for container in pod.get("status", {}).get("containerStatuses", ()):
        for state in (container.get("state", {}), container.get("lastState", {})):
            ended = state.get("terminated")
            if ended and ended.get("exitCode"):
                return failed_download(ended.get("message") or "", ended["exitCode"])
    return None


async def _or(otherwise: _Read, reading: Awaitable[_Read]) -> _Read:
    try:
        return await reading
    except (ApiError, Unreachable):
        return otherwise
