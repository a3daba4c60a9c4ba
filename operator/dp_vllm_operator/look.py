"""What one look at a model has found and done, before its status is made of it. Only values."""

from dataclasses import dataclass

from dp_vllm import names
from dp_vllm.kubernetes_api import Object
from dp_vllm_operator.children import Kept
from dp_vllm_operator.model import Model
from dp_vllm_operator.plan import Plan
from dp_vllm_operator.replica import Replica
from dp_vllm_operator.target import Target
from dp_vllm_operator.trouble import Trouble


def component(pod: Object) -> str:
    """What of a model a pod that bears its label is."""
    return str(pod["metadata"]["labels"].get(names.COMPONENT_LABEL, ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look."""

    model: Model
    now: float
    """Seconds since the epoch."""
    kept: Kept
    target: Target
    replicas: tuple[Replica, ...]
    """The model's own pods as they were before anything was done."""
    orphans: tuple[Replica, ...] = ()
    """Replicas that bear its label and are not its own."""
    others: tuple[Object, ...] = ()
    """Pods of its gateway and its download."""
    ready_revision: int | None = None
    plan: Plan | None = None
    """None while there is nothing to make replicas of."""
    refused: Trouble | None = None
    """Why the API server refused a pod or a child."""
