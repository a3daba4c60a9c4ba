"""Which revision a model's replicas shall be of now: one that is stored, or one that is stored because of this.

A spec that cannot become pods changes nothing: the replicas stay what they are, and the model's status says why.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from dp_vllm.kubernetes_api import ApiError
from dp_vllm.spec import BadSpec
from dp_vllm_operator import revision
from dp_vllm_operator.causes import refusal
from dp_vllm_operator.cluster import Cluster, is_refusal
from dp_vllm_operator.model import Model
from dp_vllm_operator.render.pod import pod, pod_template
from dp_vllm_operator.revision import Existing, Missing, New, Revision
from dp_vllm_operator.settings import Settings
from dp_vllm_operator.trouble import Trouble

QUOTA: Final = "QuotaExceeded"
"""The one refusal of a pod that may pass by the rollout itself: old replicas make room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What replicas are to be made of."""

    revision: Revision | None
    """None while nothing can be made."""
    invalid: str = ""
    """Why the present spec is not it: what is wrong with the spec."""
    refused: Trouble | None = None
    """The same: the API server was shown a pod, and does not want it."""
    undo: str = ""
    """The same: there is no revision to go back to."""
    waits: bool = False
    """The same: its files are not downloaded yet."""


async def find(
    cluster: Cluster, model: Model, stored: Sequence[Revision], used: Collection[int], settings: Settings, *, gate: bool
) -> Target:
    """The target; a new one is stored only through an open `gate`. Raises ApiError and Unreachable."""
    present = before(model, stored)
    try:
        choice = revision.wanted(model, stored, settings, pod_template, used)
    except BadSpec as error:
        return Target(revision=present, invalid=str(error))
    match choice:
        case Existing(number):
            return Target(revision=next(one for one in stored if one.number == number))
        case Missing():
            return Target(revision=present, undo=str(choice))
        case New() if not gate:
            return Target(revision=present, waits=True)
        case New():
            return await _stored(cluster, model, choice, present)


async def _stored(cluster: Cluster, model: Model, new: New, present: Revision | None) -> Target:
    try:
        await cluster.try_pod(model.namespace, pod(new.template, model, new.number, 0))
    except ApiError as error:
        if error.status != 409:  # the name may be a dying pod's
            if not is_refusal(error):
                raise
            why = refusal(error.status, error.message)
            if why.reason != QUOTA:
                return Target(revision=present, refused=why)
    body = await cluster.store_revision(model.namespace, revision.controller_revision(model, new))
    return Target(revision=Revision.of(body))


def before(model: Model, stored: Sequence[Revision]) -> Revision | None:
    """What the target was until now; None before the first."""
    last = model.status.get("revision")
    newest_first = sorted(stored, key=lambda one: (one.number == last, one.number), reverse=True)
    return next(iter(newest_first), None)
