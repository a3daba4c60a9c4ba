"""What a replica's pod says of its engine. Pure: the API server's JSON in, endpoints out.

Of a pod only the few fields are read that a gateway acts on. What clients are told of it in a 503 is the cluster's own
word for it, and no more: `/health` has no key.
"""

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from dp_vllm import names
from dp_vllm.endpoints import Endpoint, State
from dp_vllm_gateway.lookup import is_address

_TOLD_CHARACTERS: Final = 160

_NAME_CHARACTERS: Final = 253
"""Of a pod; Python reads no number of more than 4,300 digits."""

_NUMBER: Final = re.compile("([0-9]+)")


class Owner(msgspec.Struct, frozen=True):
    kind: str = ""
    name: str = ""
    controller: bool = False


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    uid: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    resource_version: str = ""
    """Of a list: what a watch goes on from."""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    owner_references: list[Owner] = []


class Waiting(msgspec.Struct, frozen=True):
    reason: str = ""


class Terminated(msgspec.Struct, frozen=True, rename="camel"):
    exit_code: int = 0
    reason: str = ""


class Running(msgspec.Struct, frozen=True):
    pass


class ContainerState(msgspec.Struct, frozen=True):
    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    restart_count: int = 0
    started: bool | None = None
    """It has passed its startup probe."""
    container_id: str = msgspec.field(name="containerID", default="")
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class Condition(msgspec.Struct, frozen=True):
    type: str
    status: str
    reason: str | None = None
    message: str | None = None


class PodStatus(msgspec.Struct, frozen=True, rename="camel"):
    phase: str = ""
    reason: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    conditions: list[Condition] | None = None
    container_statuses: list[ContainerStatus] | None = None
    init_container_statuses: list[ContainerStatus] | None = None


class Pod(msgspec.Struct, frozen=True):
    metadata: Metadata
    status: PodStatus = PodStatus()

    @property
    def is_gateway(self) -> bool:
        """It is a gateway of the model, not a replica."""
        return self.metadata.labels.get(names.COMPONENT_LABEL) == names.GATEWAY

    def belongs_to(self, model: str) -> bool:
        """Whether the operator made it for the model, as far as its controller says.

        A pod that another controller made with the same labels, as a Deployment copied from a replica, gets no request.
        One without a controller is what `kubectl delete dpm --cascade=orphan` leaves, and serves on.
        """
        controller = next((owner for owner in self.metadata.owner_references if owner.controller), None)
        if controller is None:
            return True
        if self.is_gateway:
            return controller.kind == "ReplicaSet" and controller.name.startswith(f"{model}-gateway-")
        return (controller.kind, controller.name) == (names.KIND, model)

    @property
    def ended(self) -> bool:
        """It will not run again; its address stays in its status, and may be another pod's by now."""
        return self.status.phase in ("Failed", "Succeeded")

    @property
    def engine(self) -> ContainerStatus | None:
        """The engine's container, once the kubelet knows it."""
        statuses = self.status.container_statuses or []
        return next((each for each in statuses if each.name == names.ENGINE_CONTAINER), None)

    def condition(self, kind: str) -> Condition | None:
        """The pod's condition of that type."""
        return next((each for each in self.status.conditions or [] if each.type == kind), None)


def endpoints_of(pods: Iterable[Pod]) -> tuple[Endpoint, ...]:
    """An endpoint for each replica. Where two pods have one address, the older one has lost it, whatever it says."""
    pods = list(pods)
    owners = _owners(pods)
    named = sorted((pod for pod in pods if not pod.is_gateway), key=lambda pod: _natural(pod.metadata.name))
    return tuple(
        endpoint_of(pod, owners[ip].metadata.uid if (ip := pod.status.pod_ip) in owners else pod.metadata.uid)
        for pod in named
    )


def gateways_of(pods: Iterable[Pod]) -> frozenset[str]:
    """The addresses of the gateways that run, or did so when the cluster last heard of them."""
    return frozenset(ip for ip, pod in _owners(pods).items() if is_address(ip) and pod.is_gateway)


def _owners(pods: Iterable[Pod]) -> dict[str, Pod]:
    """Whose each address is."""
    oldest_first = sorted(pods, key=lambda pod: (pod.metadata.creation_timestamp, pod.metadata.name))
    return {pod.status.pod_ip: pod for pod in oldest_first if not pod.ended}


def endpoint_of(pod: Pod, address_owner: str) -> Endpoint:
    """The pod as an endpoint, if its address, should it have one, is that of the pod with the uid `address_owner`."""
    ip = pod.status.pod_ip
    if ip and address_owner != pod.metadata.uid:
        state, message = State.DOWN, f"its address {ip} is another pod's now"
    else:
        state, message = _state_of(pod)
    return Endpoint(
        name=pod.metadata.name,
        address=f"{_bracketed(ip)}:{names.ENGINE_PORT}" if ip else "",
        incarnation=_incarnation(pod),
        state=state,
        message=message,
    )


def _incarnation(pod: Pod) -> str:
    """Another one for each start of the engine's container: its restarts keep the pod and its address."""
    engine = pod.engine or ContainerStatus(names.ENGINE_CONTAINER)
    return f"{pod.metadata.uid}/{engine.restart_count}/{engine.container_id}"


def _state_of(pod: Pod) -> tuple[State, str]:
    if pod.metadata.deletion_timestamp is not None:
        return (State.DRAINING if _runs(pod) else State.DOWN), "it is being deleted"
    if pod.ended:
        return State.DOWN, f"its pod has ended ({pod.status.reason or _ended(pod) or pod.status.phase})"
    if not _runs(pod):
        return _not_running(pod)
    ready = pod.condition("Ready")
    if ready is not None and ready.status == "True":
        return State.READY, ""
    if pod.engine is not None and not pod.engine.started:
        return State.UNREADY, "its engine is starting"
    return State.UNREADY, "its engine runs, but the cluster does not call it ready"


def _runs(pod: Pod) -> bool:
    """Whether the engine's process is there, as far as the kubelet has said; its address is known then."""
    engine = pod.engine
    running = engine is None or engine.state.running is not None
    return bool(pod.status.pod_ip) and pod.status.phase in ("Running", "Unknown") and running


def _not_running(pod: Pod) -> tuple[State, str]:
    scheduled = pod.condition("PodScheduled")
    if scheduled is not None and scheduled.status == "False":
        return State.STARTING, f"it has no node ({_first_sentence(scheduled.message or scheduled.reason or '')})"
    engine = pod.engine
    if engine is not None and engine.state.terminated is not None:
        return State.DOWN, f"its engine ended ({_end(engine.state.terminated)}) and is started again"
    reason = _waits_for(pod)
    if engine is not None and engine.last_state.terminated is not None:
        end = _end(engine.last_state.terminated)
        return State.DOWN, f"its engine ended ({end}) and waits to be started again ({reason or 'restarting'})"
    return State.STARTING, f"its pod is starting ({reason or pod.status.phase or 'Pending'})"


def _waits_for(pod: Pod) -> str:
    """The kubelet's word for what holds a container up: `ImagePullBackOff`, `CrashLoopBackOff`, `PodInitializing`."""
    statuses = [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]
    return next((each.state.waiting.reason for each in statuses if each.state.waiting is not None), "")


def _ended(pod: Pod) -> str:
    engine = pod.engine
    return _end(engine.state.terminated) if engine is not None and engine.state.terminated is not None else ""


def _end(terminated: Terminated) -> str:
    reason = terminated.reason
    return f"status {terminated.exit_code}" + (f", {reason}" if reason not in ("", "Error", "Completed") else "")


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".")[:_TOLD_CHARACTERS]


def _bracketed(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts m-1-10 after m-1-9."""
    parts = _NUMBER.split(name[:_NAME_CHARACTERS])
    return [(int(part), "") if _NUMBER.fullmatch(part) else (-1, part) for part in parts]
