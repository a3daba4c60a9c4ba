"""Why a pod is on no node, by what the scheduler says. Pure; it knows nothing of containers."""

import re
from typing import Final

from dp_vllm_operator.replica import Replica
from dp_vllm_operator.trouble import Trouble, advised

_AFTERTHOUGHT: Final = re.compile(r"[.,]? *(?:no new claims to deallocate|preemption: |not found$).*", re.DOTALL)
"""What the scheduler says of preemption, which is never what a person needs."""

_INSUFFICIENT: Final = {"cpu": "InsufficientCPU", "memory": "InsufficientMemory"}


def why_unscheduled(replica: Replica, now: float, *, largest_node: int | None, patience_seconds: float) -> Trouble:
    """Why a replica waits for a node. It needs a person at once if no node will ever do, else after some patience.

    `largest_node` is how many accelerators the node with the most of them has, if that is known.
    """
    if replica.gated:
        return _gated(replica)
    said = _AFTERTHOUGHT.sub("", replica.unscheduled_message) or replica.unscheduled
    if large := _too_large(replica, largest_node):
        return Trouble.of("NoNodeLargeEnough", advised(said, large), needs_person=True)
    if missing := re.search(r'persistentvolumeclaim "([^"]+)" not found', said):
        return Trouble.of(
            "ClaimNotFound", f"there is no PersistentVolumeClaim {missing[1]}: make it", needs_person=True
        )
    since = replica.unscheduled_since
    impatient = since is not None and now - since >= patience_seconds
    reason, advice = _reason(replica, said)
    return Trouble.of(reason, advised(said, advice), needs_person=impatient)


def _gated(replica: Replica) -> Trouble:
    gates = [gate.get("name", "") for gate in replica.body.get("spec", {}).get("schedulingGates", ())]
    what = f"for the scheduling gate {', '.join(gates)} to be opened" if gates else "for a scheduling gate to be opened"
    return Trouble.of("WaitingForQuota", f"waits {what}, as by a quota system", needs_person=False)


def _too_large(replica: Replica, largest_node: int | None) -> str:
    """What to do if no node has as many accelerators as are asked for."""
    if largest_node is None or not replica.accelerators:
        return ""
    resource, asked = max(replica.accelerators.items(), key=lambda item: item[1])
    if asked <= largest_node:
        return ""
    if largest_node == 0:
        return f"no node has any {resource}: install its device plugin, or see spec.engine.accelerator"
    return (
        f"a replica asks for {asked} {resource} (tensorParallelSize * pipelineParallelSize), and no node has more than "
        f"{largest_node}: lower one of the two, or add a larger node"
    )


def _reason(replica: Replica, said: str) -> tuple[str, str]:
    if replica.lacks_accelerators:
        gpus = all(re.search(r"gpu", resource, re.IGNORECASE) for resource in replica.accelerators)
        asked = ", ".join(f"{amount} {resource}" for resource, amount in sorted(replica.accelerators.items()))
        return (
            "InsufficientGPUs" if gpus else "InsufficientAccelerators",
            f"a replica asks for {asked}: add nodes, or lower spec.replicas",
        )
    if "unbound immediate PersistentVolumeClaims" in said:
        return "ClaimNotBound", "see spec.cache, and what `kubectl describe pvc` says of the storage class"
    if short := re.search(r"Insufficient (cpu|memory)\b", said):
        return _INSUFFICIENT[short[1]], "see spec.engine.resources"
    if re.search(r"node affinity|taint|topology spread", said):
        return replica.unscheduled, "see nodeSelector, affinity and tolerations in spec.template"
    return replica.unscheduled, ""
