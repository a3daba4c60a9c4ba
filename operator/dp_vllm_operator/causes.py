"""Why a replica is not Ready, and why the API server refuses a pod: with the cluster's own words, and what can be done.

Pure. It sees one pod as it was listed, the last lines of its engine before, and the warnings that the cluster has given
of it; it knows nothing of the model's other replicas.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from dp_vllm_operator import containers
from dp_vllm_operator.replica import Replica
from dp_vllm_operator.trouble import Trouble, advised, one_line
from dp_vllm_operator.unscheduled import why_unscheduled

__all__ = ["Trouble", "failed_download", "refusal", "trouble"]

Event = Mapping[str, Any]

_STUCK: Final = ("FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox", "NetworkNotReady")
"""Warnings of a pod whose containers cannot be made. Its status says nothing of them."""

_END_FIXES: Final = (
    (r'EmptyDir volume "(?:[\w.-]*-)?shm"', "raise spec.engine.shmSize"),
    (r"EmptyDir volume", "raise the volume's sizeLimit"),
    (r"ephemeral(?:-| local )storage|DiskPressure", "keep the model's files on a volume: spec.cache"),
    (r"low on resource: memory", "ask for the memory that it needs: spec.engine.resources.requests"),
    (r"node affinity/selector", "the labels of its node have changed"),
)

_REFUSALS: Final = (
    (
        r"(?:exceeded|failed) quota: ",
        "QuotaExceeded",
        "raise the namespace's quota, or lower spec.replicas or spec.engine.resources",
    ),
    (
        r"violates PodSecurity.*hostPath",
        "PodSecurityViolation",
        "spec.cache.hostPath needs a namespace with the label pod-security.kubernetes.io/enforce: privileged; "
        "spec.cache.claim does not",
    ),
    (r"violates PodSecurity", "PodSecurityViolation", "see spec.template, and the namespace's pod-security label"),
    (r"denied the request|denied request", "AdmissionDenied", "a policy of the cluster forbids it: see spec.template"),
    (r"service account \S+: serviceaccount .* not found", "ServiceAccountNotFound", "make the service account"),
)
"""Which of them a person must help with."""

_PASSING_REFUSALS: Final = (
    (r"failed calling webhook", "AdmissionUnavailable", "a webhook of the cluster does not answer"),
    (r"because it is being terminated", "NamespaceTerminating", ""),
)

_LASTING_FAILURE: Final = 20
"""From this exit code on, a download needs a person; below, it is tried again."""

_SUBJECT: Final = re.compile(r'^pods? "[^"]*" is (?:forbidden|invalid): (?:: )?', re.IGNORECASE)


def trouble(
    replica: Replica,
    now: float,
    *,
    lines: Sequence[str] = (),
    warnings: Iterable[Event] = (),
    largest_node: int | None = None,
    patience_seconds: float = 60.0,
) -> Trouble | None:
    """What is wrong with a replica, None if nothing is or if it is on its way to Ready.

    `lines`: the last of its engine before. `warnings`: events of the pod. `largest_node`: the most accelerators that a
    node has. `patience_seconds`: how long it may wait for a node until a person is asked to help.
    """
    if replica.terminating or replica.ready:
        return None
    if replica.ended:
        return _dead(replica, lines)
    if replica.unscheduled:
        return why_unscheduled(replica, now, largest_node=largest_node, patience_seconds=patience_seconds)
    status = replica.body.get("status", {})
    with_kind = [
        *((one, True) for one in status.get("initContainerStatuses") or ()),
        *((one, False) for one in status.get("containerStatuses") or ()),
    ]
    found = containers.why_not_running(with_kind, _images(replica.body), lines)
    return found or _stuck(replica, warnings) or _not_counted(replica)


def refusal(status: int, message: str) -> Trouble:
    """Why the API server refuses a pod, by the status and the message of its answer."""
    said = one_line(_SUBJECT.sub("", message))
    for known, needs_person in ((_REFUSALS, True), (_PASSING_REFUSALS, False)):
        for pattern, reason, advice in known:
            if re.search(pattern, said):
                return Trouble.of(reason, advised(said, advice), needs_person=needs_person)
    if status in (400, 403, 422):
        text = advised(f"the API server refuses the replicas' pod: {said}", "see spec.template and spec.engine")
        return Trouble.of("InvalidTemplate", text, needs_person=True)
    return Trouble.of("PodRefused", f"the API server refuses the replicas' pod: {said}", needs_person=False)


def failed_download(message: str, exit_code: int) -> Trouble:
    """Why a download ended, by its last words: `ModelGated: what helps`."""
    said = re.match(r"([A-Z]\w+): (.+)", message.strip(), re.DOTALL)
    lasts = exit_code >= _LASTING_FAILURE
    if said is None:
        text = f"the download ended with exit code {exit_code}"
        return Trouble.of("DownloadFailed", f"{text}: {message}" if message.strip() else text, needs_person=lasts)
    return Trouble.of(said[1], said[2], needs_person=lasts)


def _images(pod: Mapping[str, Any]) -> dict[str, str]:
    spec = pod.get("spec", {})
    both = (*(spec.get("initContainers") or ()), *(spec.get("containers") or ()))
    return {container.get("name", ""): container.get("image", "") for container in both}


def _dead(replica: Replica, lines: Sequence[str]) -> Trouble:
    """It is replaced, so nobody needs to do anything; unless the next one dies too."""
    status = replica.body.get("status", {})
    reason, message = status.get("reason") or "", status.get("message") or ""
    if not reason:
        message = containers.how_it_ended(_statuses(replica), lines)
    known = "NodeOutOfResources" if reason.startswith("OutOf") else reason or replica.phase
    return Trouble.of(known, advised(message, containers.fix(message, _END_FIXES)), needs_person=False)


def _stuck(replica: Replica, warnings: Iterable[Event]) -> Trouble | None:
    """The newest warning of a pod whose containers cannot be made."""
    told = [event for event in warnings if event.get("reason") in _STUCK]
    if not told or any("running" in (one.get("state") or {}) for one in _statuses(replica)):
        return None
    newest = max(told, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
    message = newest.get("message") or ""
    if missing := re.search(r'(secret|configmap) "([^"]+)" not found', message):
        kind = "Secret" if missing[1] == "secret" else "ConfigMap"
        return Trouble.of(f"{kind}NotFound", f"make the {kind} {missing[2]}: a volume is to show it", needs_person=True)
    return Trouble.of(newest["reason"], message, needs_person=True)


def _not_counted(replica: Replica) -> Trouble | None:
    """Its containers are ready, but the pod is not."""
    statuses = _statuses(replica)
    conditions = replica.body.get("status", {}).get("conditions") or ()
    ready: Mapping[str, Any] = next((one for one in conditions if one.get("type") == "Ready"), {})
    if not statuses or not all(one.get("ready") for one in statuses) or ready.get("status") != "False":
        return None
    if ready.get("reason") == "ReadinessGatesNotReady":
        text = f"its containers are ready, but somebody else's readiness gate is not: {ready.get('message') or ''}"
        return Trouble.of("ReadinessGatesNotReady", text, needs_person=True)
    return Trouble.of("NodeNotReady", f"its node {replica.node} does not answer", needs_person=False)


def _statuses(replica: Replica) -> Sequence[Mapping[str, Any]]:
    status = replica.body.get("status", {})
    return (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
