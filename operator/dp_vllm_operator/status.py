"""The status of a model: counts, conditions, and what each replica does. Pure, and the same for the same facts.

`findings` says what is wrong, the most telling first; here it becomes conditions:

- Ready: the endpoint answers and all replicas that the present spec asks for are ready. Its reason is the first
  finding; if the model is Ready all the same, the first that needs a person; else AllReplicasReady or ScaledToZero.
- Available: at least one replica serves.
- Progressing: True while a first start, a rollout or a scaling goes on; False with a reason when it is done, has
  stalled or is paused.
- Degraded: something needs a person.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec import UNSET

from dp_vllm import names
from dp_vllm.crd.status import MOST_REPLICAS, Condition, ReplicaStatus, Status
from dp_vllm_operator.findings import findings, gateway_available, is_disabled, progress_of
from dp_vllm_operator.model import Model
from dp_vllm_operator.observed import DownloadState, Observed
from dp_vllm_operator.plan import RolloutState
from dp_vllm_operator.replica import Replica
from dp_vllm_operator.trouble import Trouble, one_line

Written = dict[str, Any]
"""A status as its JSON."""

PROGRESS_SECONDS: Final = 10.0
"""A change of progress alone is written after so long at the earliest."""

_LONGEST_OF_REPLICA: Final = 500

_PROGRESSING: Final = {
    RolloutState.DONE: ("False", "Complete"),
    RolloutState.FIRST_START: ("True", "FirstStart"),
    RolloutState.SCALING: ("True", "Scaling"),
    RolloutState.ROLLING: ("True", "RollingOut"),
    RolloutState.WAITING_FOR_QUOTA: ("True", "WaitingForQuota"),
    RolloutState.SURGE_UNSCHEDULABLE: ("False", "SurgeUnschedulable"),
    RolloutState.STALLED: ("False", "RolloutStalled"),
    RolloutState.PAUSED: ("False", "Paused"),
}


def status(model: Model, observed: Observed, now: float) -> Written:
    """All that is known of the model now."""
    found, generation = list(findings(model, observed, now)), _generation(model)
    live = [replica for replica in observed.replicas if replica.lives]
    conditions = (
        ("Ready", *_ready(model, observed, found)),
        ("Available", *_available(model, observed)),
        ("Progressing", *_progressing(model, observed)),
        ("Degraded", *_degraded(found)),
    )
    made = Status(
        observed_generation=generation,
        replicas=len(live),
        ready_replicas=sum(replica.ready for replica in live),
        updated_replicas=sum(replica.revision == observed.revision for replica in live),
        available_replicas=sum(replica.available(now) for replica in live),
        selector=f"{names.MODEL_LABEL}={model.name},{names.COMPONENT_LABEL}={names.REPLICA}",
        endpoint=UNSET if _service_is_not_ours(model, observed) else endpoint(model),
        revision=UNSET if observed.revision is None else observed.revision,
        ready_revision=UNSET if observed.ready_revision is None else observed.ready_revision,
        conditions=tuple(_condition(*each, generation, model.status, now) for each in conditions),
        replica_statuses=_replica_statuses(observed, now),
    )
    return _written(made)


def invalid(body: Mapping[str, Any], problem: str, now: float) -> Written:
    """The status of a model whose spec cannot be read: nobody looks after its replicas, and what was known stays."""
    old, generation = body.get("status") or {}, body["metadata"]["generation"]
    text = f"{problem}; until then the operator leaves this model alone"
    values = {"Ready": "False", "Progressing": "False", "Degraded": "True"}
    conditions = [_condition(kind, value, "InvalidSpec", text, generation, old, now) for kind, value in values.items()]
    kept = [one for one in old.get("conditions") or () if one.get("type") == "Available"]
    if not kept:
        conditions.insert(1, _condition("Available", "Unknown", "InvalidSpec", text, generation, old, now))
    counts = {"replicas": 0, "readyReplicas": 0, "updatedReplicas": 0, "availableReplicas": 0}
    written = [msgspec.to_builtins(condition) for condition in conditions]
    return {**counts, **old, "observedGeneration": generation, "conditions": [*written[:1], *kept, *written[1:]]}


def endpoint(model: Model) -> str:
    """The address of the OpenAI endpoint within the cluster."""
    return f"http://{model.name}.{model.namespace}.svc:{model.spec.gateway.service.port}/v1"


def same(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether nothing has changed, so that nothing need be written."""
    return dict(old) == dict(new)


def write_in_seconds(old: Mapping[str, Any], new: Mapping[str, Any], now: float, last_written: float) -> float | None:
    """When to write: 0 for now, None for not at all. Progress and messages alone wait; `last_written` is a time too."""
    if same(old, new):
        return None
    if not same(_without_progress(old), _without_progress(new)):
        return 0.0
    return max(0.0, min(PROGRESS_SECONDS, last_written + PROGRESS_SECONDS - now))


def _generation(model: Model) -> int:
    """The generation that all is said of: nobody sees to a spec that is edited while the model is left alone."""
    seen: int | None = model.status.get("observedGeneration") if is_disabled(model) else None
    return model.generation if seen is None else seen


def _ready(model: Model, observed: Observed, found: list[Trouble]) -> tuple[str, str, str]:
    of_target = [one for one in observed.replicas if one.ready and one.revision == observed.revision]
    wanted = model.spec.replicas
    serves = gateway_available(observed) > 0 and not _service_is_not_ours(model, observed)
    ready = serves and observed.refused is None and observed.revision is not None and len(of_target) >= wanted
    count = f"{len(of_target)} of {wanted} replicas are ready"
    if not ready:
        first = found[0] if found else Trouble.of("ReplicasStarting", "", needs_person=False)
        return "False", first.reason, _joined(count, first.message)
    if lasting := [one for one in found if one.needs_person or one.reason == "Disabled"]:
        return "True", lasting[0].reason, _joined(count, lasting[0].message)
    if wanted == 0:
        return "True", "ScaledToZero", "no replica is wanted (spec.replicas is 0): the endpoint answers 503"
    return "True", "AllReplicasReady", count


def _available(model: Model, observed: Observed) -> tuple[str, str, str]:
    serving = sum(replica.ready for replica in observed.replicas)
    if gateway_available(observed) == 0 or _service_is_not_ours(model, observed):
        return "False", "GatewayNotReady", "no gateway answers at the endpoint"
    if serving:
        return "True", "ReplicasAvailable", "at least one replica serves"
    if model.spec.replicas == 0:
        return "False", "ScaledToZero", "no replica is wanted (spec.replicas is 0)"
    return "False", "NoReplicaReady", "no replica is ready"


def _progressing(model: Model, observed: Observed) -> tuple[str, str, str]:
    if is_disabled(model):
        return "False", "Disabled", "the operator leaves this model alone"
    if observed.refused:
        return "False", observed.refused.reason, observed.refused.message
    download = observed.download
    if download.state is DownloadState.FAILED:
        reason = download.trouble.reason if download.trouble else "DownloadFailed"
        return "False", reason, download.trouble.message if download.trouble else download.message
    if download.state is DownloadState.RUNNING:
        return "True", "Downloading", "the model is downloaded before the first replica is made"
    return *_PROGRESSING[observed.rollout], observed.rollout_message


def _degraded(found: list[Trouble]) -> tuple[str, str, str]:
    lasting = [one for one in found if one.needs_person]
    if not lasting:
        return "False", "AsExpected", ""
    return "True", lasting[0].reason, "; ".join(dict.fromkeys(one.message for one in lasting))


def _condition(
    kind: str, value: str, reason: str, message: str, generation: int, old: Mapping[str, Any], now: float
) -> Condition:
    before: Mapping[str, Any] = next((one for one in old.get("conditions") or () if one.get("type") == kind), {})
    since = before.get("lastTransitionTime") if before.get("status") == value else None
    return Condition(
        type=kind,
        status=value,  # type: ignore[arg-type]
        reason=reason,
        message=one_line(message, 4096),
        last_transition_time=since or datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        observed_generation=generation,
    )


def _replica_statuses(observed: Observed, now: float) -> tuple[ReplicaStatus, ...]:
    """Those with a trouble first, then those on their way, those that end, and those that are ready."""

    def rank(replica: Replica) -> tuple[int, int, int, str]:
        place = 0 if replica.name in observed.troubles else 1 if replica.lives else 2
        return 3 if replica.ready else place, -replica.revision, replica.number, replica.name

    return tuple(_replica_status(observed, one, now) for one in sorted(observed.replicas, key=rank)[:MOST_REPLICAS])


def _replica_status(observed: Observed, replica: Replica, now: float) -> ReplicaStatus:
    doing, trouble = progress_of(observed, replica, now), observed.troubles.get(replica.name)
    message = one_line(trouble.message if trouble else doing.message, _LONGEST_OF_REPLICA)
    return ReplicaStatus(
        name=replica.name,
        phase=trouble.reason if trouble else doing.phase,
        progress=UNSET if trouble or doing.percent is None else doing.percent,
        message=message or UNSET,
    )


def _service_is_not_ours(model: Model, observed: Observed) -> bool:
    return f"services/{model.name}" in observed.conflicts


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _without_progress(written: Mapping[str, Any]) -> Written:
    conditions = [{**one, "message": ""} for one in written.get("conditions") or ()]
    return {**written, "replicaStatuses": [], "conditions": conditions}


def _written(made: Status) -> Written:
    written: Written = msgspec.json.decode(msgspec.json.encode(made))  # lists, as the API server gives them back
    return written
