"""Brings a model's replicas nearer to its target: asks for a plan, puts on record what must outlive it, carries it out.

What a later look cannot see in the pods is annotated on the revision: when its rollout was found to be stalled, and
when the model was last Ready with it.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from dp_vllm import names
from dp_vllm.kubernetes_api import ApiError
from dp_vllm_operator.backoff import Failures
from dp_vllm_operator.causes import refusal
from dp_vllm_operator.cluster import POD, REVISION, Cluster, is_refusal
from dp_vllm_operator.fleet import Wanted
from dp_vllm_operator.loads import loads
from dp_vllm_operator.model import Model
from dp_vllm_operator.plan import Plan, RolloutState, needs_loads, plan
from dp_vllm_operator.render.pod import pod
from dp_vllm_operator.replica import Replica
from dp_vllm_operator.revision import PROVEN_ANNOTATION, STALLED_ANNOTATION, Revision, last_proven, surplus
from dp_vllm_operator.trouble import Trouble

STRANGERS: Final = 1000
"""What is added to a number whose name a stranger has: as many replicas as a model has at most."""

log = logging.getLogger(__name__)


async def decide(
    model: Model,
    target: Revision,
    stored: Sequence[Revision],
    replicas: Sequence[Replica],
    orphans: Sequence[Replica],
    failures: Failures,
    now: float,
) -> Plan:
    """What to do now; asks replicas for their load if that matters."""
    for replica in replicas:
        if replica.ended and not replica.terminating:
            failures.note(replica.uid, now)
    rollout = model.spec.rollout
    wanted = Wanted(
        replicas=model.spec.replicas,
        revision=target.number,
        fallback=last_proven(stored),
        stalled_at=target.stalled_at,
        strategy=rollout.strategy,
        surge_timeout_seconds=rollout.surge_timeout_seconds,
        progress_deadline_seconds=rollout.progress_deadline_seconds,
        paused=rollout.paused,
        hold=failures.hold(now),
    )
    known = await loads(needs_loads(wanted, replicas, now))
    return plan(wanted, replicas, [orphan.number for orphan in orphans], known, now)


async def carry_out(
    cluster: Cluster, model: Model, target: Revision, stored: Sequence[Revision], decided: Plan, now: float
) -> Trouble | None:
    """Delete, then create; why the API server refused a pod, if it did."""
    await _record_stall(cluster, model, target, stored, decided, now)
    for ending in decided.delete:
        await cluster.delete(POD, model.namespace, ending.replica.name, ending.replica.uid)
    revisions = {revision.number: revision for revision in (*stored, target)}
    for made in decided.create:
        revision = revisions.get(made.revision, target)  # somebody may have deleted the one that is asked for
        try:
            await _make(cluster, model, revision, made.number)
        except ApiError as error:
            if not is_refusal(error):
                raise
            return refusal(error.status, error.message)
    return None


async def _make(cluster: Cluster, model: Model, revision: Revision, number: int) -> None:
    """Make a replica with this number; with a higher one if the name is taken by a pod that no list shows as a replica.

    A replica that somebody has taken out by its label keeps its name. One that bears the label was made a moment ago,
    and missing in a list that is too old: then nothing is made.
    """
    while True:
        body = pod(revision.template, model, revision.number, number)
        try:
            await cluster.create(POD, model.namespace, body)
            return
        except ApiError as error:
            there = await cluster.pod(model.namespace, body["metadata"]["name"]) if error.status == 409 else None
            if there is None or there["metadata"].get("labels", {}).get(names.MODEL_LABEL) == model.name:
                raise
        number += STRANGERS


async def record_proof(
    cluster: Cluster, model: Model, target: Revision, stored: Sequence[Revision], decided: Plan, now: float
) -> bool:
    """Note that the model is Ready with its target, unless that is known; whether it was noted."""
    if decided.rollout is not RolloutState.DONE or not model.spec.replicas or last_proven(stored) == target.number:
        return False
    stamp = datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds")
    await cluster.annotate_revision(model.namespace, target.name, {PROVEN_ANNOTATION: stamp})
    return True


async def remove_surplus(
    cluster: Cluster, model: Model, target: Revision, stored: Sequence[Revision], replicas: Sequence[Replica]
) -> None:
    """Delete the revisions that nobody will go back to."""
    used = {target.number, *(replica.revision for replica in replicas)}
    for old in surplus(stored, used):
        await cluster.delete(REVISION, model.namespace, old.name, old.uid)


async def _record_stall(
    cluster: Cluster, model: Model, target: Revision, stored: Sequence[Revision], decided: Plan, now: float
) -> None:
    """Before anything is done because of it: what shows the stall may be deleted by that.

    Only the target's stall is kept: a revision that becomes the target again is tried again.
    """
    stalled = decided.rollout is RolloutState.STALLED
    if stalled and target.stalled_at is None:
        await cluster.annotate_revision(model.namespace, target.name, {STALLED_ANNOTATION: repr(now)})
    for revision in {one.number: one for one in (*stored, target)}.values():
        over = revision.number != target.number or not stalled
        if over and revision.stalled_at is not None:
            await cluster.annotate_revision(model.namespace, revision.name, {STALLED_ANNOTATION: ""})
