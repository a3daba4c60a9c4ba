"""All that keeps a model from being Ready, and all that needs a person, the most telling first. Pure.

The order is that of what a person must know first:

1.  Disabled: nothing that follows will be seen to.
2.  What the API server refuses (InvalidTemplate, QuotaExceeded, ...), NameConflict, a download that failed, UndoFailed:
    nothing goes on.
3.  What is wrong with replicas and needs a person (ImagePullBackOff, CrashLoopBackOff, OOMKilled, SecretNotFound, ...):
    first of the revision that is rolled out, then what most replicas have.
4.  SurgeUnschedulable, then replicas for which there is too little of something.
5.  What is wrong with the gateways and needs a person.
6.  RolloutStalled: without any of the above, all that is known is that it takes too long.
7.  WaitingForQuota, then what passes by itself (Restarted, Evicted, NodeNotReady, ...).
8.  Paused.
9.  What is under way: the download, RollingOut, or how far the replica is that has the longest way to go.
10. GatewayNotReady, OrphanedPods.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from dp_vllm import names
from dp_vllm_operator.model import Model
from dp_vllm_operator.observed import DownloadState, Observed
from dp_vllm_operator.plan import RolloutState
from dp_vllm_operator.progress import LOADING_PHASES, PHASES, Progress, progress
from dp_vllm_operator.replica import Replica
from dp_vllm_operator.trouble import Trouble

SHORT: Final = ("InsufficientGPUs", "InsufficientAccelerators", "InsufficientCPU", "InsufficientMemory")
"""Too little of something on the nodes: it passes when something else ends."""

QUOTA: Final = "WaitingForQuota"


def findings(model: Model, observed: Observed, now: float) -> Iterator[Trouble]:
    """Everything that is in the way of Ready or needs a person, in the order above. None if all is well."""
    replicas = replica_troubles(observed)
    lasting = [trouble for trouble in replicas if trouble.needs_person]
    yield from _standing_still(model, observed)
    yield from (trouble for trouble in lasting if trouble.reason not in SHORT)
    if observed.rollout is RolloutState.SURGE_UNSCHEDULABLE:
        yield Trouble.of("SurgeUnschedulable", observed.rollout_message, needs_person=True)
    yield from (_with_orphans(trouble, observed) for trouble in lasting if trouble.reason in SHORT)
    gateway = observed.gateway.trouble if observed.gateway else None
    if gateway is not None and gateway.needs_person:
        yield replace(gateway, message=f"the gateway: {gateway.message}")
    if observed.rollout is RolloutState.STALLED:
        yield Trouble.of("RolloutStalled", observed.rollout_message, needs_person=True)
    passing = [trouble for trouble in replicas if not trouble.needs_person]
    yield from sorted(passing, key=lambda trouble: trouble.reason != QUOTA)
    yield from _under_way(model, observed, now)
    if gateway_available(observed) == 0:
        yield _gateway_not_ready(model, observed)
    if orphans := _living_orphans(observed):
        yield Trouble.of("OrphanedPods", f"{_orphans_hold(orphans)}; delete them", needs_person=True)


def is_disabled(model: Model) -> bool:
    """Whether the user has told the operator to leave the model alone."""
    return model.annotations.get(names.RECONCILE_ANNOTATION) == "disabled"


def gateway_available(observed: Observed) -> int:
    """How many gateways serve."""
    return observed.gateway.available if observed.gateway else 0


def replica_troubles(observed: Observed) -> list[Trouble]:
    """What is wrong with replicas: one for each reason, with the name of one replica that has it.

    While a rollout goes on, what its replica lacks is about to be given up by an old one.
    """
    known = {replica.name: replica for replica in observed.replicas}
    by_reason: dict[str, list[tuple[bool, str, Trouble]]] = {}
    for name, trouble in observed.troubles.items():
        old = name not in known or known[name].revision != observed.revision
        if observed.rollout is not RolloutState.ROLLING or trouble.reason not in SHORT:
            by_reason.setdefault(trouble.reason, []).append((old, name, trouble))
    groups = [sorted(group, key=lambda one: one[:2]) for group in by_reason.values()]
    groups.sort(
        key=lambda group: (not any(one[2].needs_person for one in group), group[0][0], -len(group), group[0][1])
    )
    return [_told(group) for group in groups]


def _told(group: list[tuple[bool, str, Trouble]]) -> Trouble:
    _, name, trouble = group[0]
    more = f" (and {len(group) - 1} more like it)" if len(group) > 1 else ""
    person = any(one.needs_person for _, _, one in group)
    return Trouble.of(trouble.reason, f"{name}{more}: {trouble.message}", needs_person=person)


def _standing_still(model: Model, observed: Observed) -> Iterator[Trouble]:
    if is_disabled(model):
        text = f"the operator leaves this model alone: its annotation {names.RECONCILE_ANNOTATION} is disabled"
        yield Trouble.of("Disabled", text, needs_person=False)
    if observed.refused:
        yield observed.refused
    if observed.conflicts:
        objects = ", ".join(observed.conflicts)
        text = (
            f"what this model needs exists already, and is somebody else's: {objects}; make a DPModel of another name"
        )
        yield Trouble.of("NameConflict", text, needs_person=True)
    if observed.download.state is DownloadState.FAILED:
        failed = observed.download.trouble
        yield failed or Trouble.of("DownloadFailed", observed.download.message, needs_person=True)
    if observed.undo_error:
        yield Trouble.of("UndoFailed", observed.undo_error, needs_person=True)


def _under_way(model: Model, observed: Observed, now: float) -> Iterator[Trouble]:
    if observed.rollout is RolloutState.PAUSED and len(_target_ready(observed)) < model.spec.replicas:
        yield Trouble.of("Paused", observed.rollout_message, needs_person=False)
    if observed.download.state is DownloadState.RUNNING:
        yield _downloading(observed)
    if observed.rollout is RolloutState.WAITING_FOR_QUOTA:
        yield Trouble.of(QUOTA, observed.rollout_message, needs_person=False)
    starting = _starting(model, observed, now)
    if observed.rollout is RolloutState.ROLLING:
        text = f"{observed.rollout_message}; {starting.message}" if starting else observed.rollout_message
        yield Trouble.of("RollingOut", text, needs_person=False)
    elif starting:
        yield starting


def _downloading(observed: Observed) -> Trouble:
    download = observed.download
    if download.trouble:
        return replace(download.trouble, message=f"the download: {download.trouble.message}")
    share = "" if download.percent is None else f", {download.percent} %"
    return Trouble.of("Downloading", (download.message or "downloading the model") + share, needs_person=False)


def _starting(model: Model, observed: Observed, now: float) -> Trouble | None:
    """How far the replica is that has the longest way to go; None if all are ready."""
    waiting = [replica for replica in observed.replicas if replica.lives and not replica.ready]
    if not waiting:
        missing = model.spec.replicas - sum(replica.lives for replica in observed.replicas)
        text = f"{missing} more to be made" if missing > 0 else "those of an old revision are to be replaced"
        lacking = len(_target_ready(observed)) < model.spec.replicas
        return Trouble.of("ReplicasStarting", text, needs_person=False) if lacking else None
    last = min(waiting, key=lambda replica: (_way(progress_of(observed, replica, now)), replica.number, replica.name))
    doing = progress_of(observed, last, now)
    share = "" if doing.percent is None else f", {doing.percent} %"
    reason = doing.phase if doing.phase in LOADING_PHASES else "ReplicasStarting"
    reason = "ReplicasNotReady" if doing.phase == "NotReady" else reason
    return Trouble.of(reason, f"{last.name}: {doing.message}{share}", needs_person=False)


def _way(doing: Progress) -> int:
    return PHASES.index(doing.phase) if doing.phase in PHASES else 0


def progress_of(observed: Observed, replica: Replica, now: float) -> Progress:
    """What a replica is doing, whether or not its log was read."""
    return observed.progress.get(replica.name) or progress(replica, (), now)


def _target_ready(observed: Observed) -> list[Replica]:
    return [replica for replica in observed.replicas if replica.ready and replica.revision == observed.revision]


def _gateway_not_ready(model: Model, observed: Observed) -> Trouble:
    if observed.gateway is None:
        return Trouble.of("GatewayNotReady", "there is no gateway yet", needs_person=False)
    if observed.gateway.trouble:
        trouble = observed.gateway.trouble
        return replace(trouble, message=f"the gateway: {trouble.message}")
    if observed.gateway.desired == 0:
        text = "its Deployment is scaled to 0: nobody answers at the endpoint"
        return Trouble.of("GatewayNotReady", text, needs_person=True)
    text = f"0 of {observed.gateway.desired} gateways are ready"
    if keys := model.spec.api_key_secret_ref:
        text += f"; see whether the Secret {keys.name} has API keys under {keys.key} and no wrong line there"
    return Trouble.of("GatewayNotReady", text, needs_person=False)


def _living_orphans(observed: Observed) -> list[Replica]:
    return [orphan for orphan in observed.orphans if orphan.lives]


def _orphans_hold(orphans: list[Replica]) -> str:
    shown = ", ".join(sorted(orphan.name for orphan in orphans)[:5]) + (", ..." if len(orphans) > 5 else "")
    held: dict[str, int] = {}
    for orphan in orphans:
        for resource, amount in orphan.accelerators.items() if orphan.bound else ():
            held[resource] = held.get(resource, 0) + amount
    what = f" and hold {', '.join(f'{n} {resource}' for resource, n in sorted(held.items()))}" if held else ""
    return f"pods that bear the model's label are not its own{what}: {shown}"


def _with_orphans(trouble: Trouble, observed: Observed) -> Trouble:
    """What orphans hold may be what a replica lacks."""
    orphans = _living_orphans(observed)
    if not any(orphan.accelerators and orphan.bound for orphan in orphans):
        return trouble
    return replace(trouble, message=f"{trouble.message}; {_orphans_hold(orphans)}; delete them")
