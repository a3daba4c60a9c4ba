"""What each state of a pod is to a gateway."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from replica_pods import container, pod, running

from dp_vllm import names
from dp_vllm.endpoints import Endpoint, State
from dp_vllm_gateway.discovery.pods import Pod, endpoints_of

SCHEDULED = {"type": "PodScheduled", "status": "True"}


def endpoints(*pods: dict[str, Any]) -> list[Endpoint]:
    return list(endpoints_of(msgspec.json.decode(msgspec.json.encode(pods), type=list[Pod])))


def owned(kind: str, name: str, *, component: str = names.REPLICA, controller: bool = True) -> dict[str, Any]:
    made = pod("p", running("10.0.0.1"))
    made["metadata"]["labels"][names.COMPONENT_LABEL] = component
    made["metadata"]["ownerReferences"] = [{"kind": kind, "name": name, "controller": controller}]
    return made


@pytest.mark.parametrize(
    ("made", "belongs"),
    [
        (owned("DPModel", "m"), True),
        (pod("orphaned", running("10.0.0.1")), True),
        (owned("Node", "n", controller=False), True),
        (owned("DPModel", "other"), False),
        (owned("ReplicaSet", "a-copy-5d9c"), False),
        (owned("ReplicaSet", "m-gateway-5d9c", component=names.GATEWAY), True),
        (owned("ReplicaSet", "a-copy-5d9c", component=names.GATEWAY), False),
        (owned("StatefulSet", "m-gateway-5d9c", component=names.GATEWAY), False),
    ],
)
def test_a_pod_with_the_labels_that_another_controller_made_is_not_the_model_s(
    made: dict[str, Any], belongs: bool
) -> None:
    assert msgspec.convert(made, Pod).belongs_to("m") == belongs


def pending(**status: Any) -> dict[str, Any]:
    return {"phase": "Pending", "conditions": [SCHEDULED], **status}


def waiting(reason: str) -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": "a secret of the cluster"}}


UNSCHEDULED = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/4 nodes are available: 4 Insufficient nvidia.com/gpu. preemption: 0/4 nodes are available: 4 No.",
}
OOM = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}


@pytest.mark.parametrize(
    ("status", "deleted", "state", "says"),
    [
        pytest.param(running("10.0.0.1"), False, State.READY, "", id="ready"),
        pytest.param(running("10.0.0.1", ready=False), False, State.UNREADY, "does not call it ready", id="not-ready"),
        pytest.param(
            running("10.0.0.1", ready=False, started=False), False, State.UNREADY, "is starting", id="not-started"
        ),
        pytest.param(running("10.0.0.1", phase="Unknown"), False, State.READY, "", id="unknown-but-ready"),
        pytest.param(running("10.0.0.1"), True, State.DRAINING, "being deleted", id="terminating"),
        pytest.param(running("10.0.0.1", phase="Failed"), False, State.DOWN, "has ended (Failed)", id="failed"),
        pytest.param(running("10.0.0.1", phase="Succeeded"), False, State.DOWN, "has ended", id="succeeded"),
        pytest.param(
            {"phase": "Failed", "reason": "Evicted", "podIP": "10.0.0.1"}, False, State.DOWN, "Evicted", id="evicted"
        ),
        pytest.param(
            {"phase": "Failed", "podIP": "10.0.0.1", "containerStatuses": [container(OOM)]},
            False,
            State.DOWN,
            "has ended (status 137, OOMKilled)",
            id="ended",
        ),
        pytest.param({}, False, State.STARTING, "is starting (Pending)", id="just-made"),
        pytest.param({"phase": "Pending"}, True, State.DOWN, "being deleted", id="deleted-before-it-ran"),
        pytest.param(
            {"phase": "Pending", "conditions": [UNSCHEDULED]},
            False,
            State.STARTING,
            "has no node (0/4 nodes are available: 4 Insufficient nvidia.com/gpu)",
            id="unschedulable",
        ),
        pytest.param(
            pending(containerStatuses=[container(waiting("ImagePullBackOff"))]),
            False,
            State.STARTING,
            "is starting (ImagePullBackOff)",
            id="image",
        ),
        pytest.param(
            pending(
                podIP="10.0.0.1",
                initContainerStatuses=[{**container(waiting("CrashLoopBackOff")), "name": "init"}],
                containerStatuses=[container(waiting("PodInitializing"))],
            ),
            False,
            State.STARTING,
            "is starting (CrashLoopBackOff)",
            id="init",
        ),
        pytest.param(
            {**running("10.0.0.1"), "containerStatuses": [container(waiting("CrashLoopBackOff"), last_state=OOM)]},
            False,
            State.DOWN,
            "ended (status 137, OOMKilled) and waits to be started again (CrashLoopBackOff)",
            id="crash-loop",
        ),
        pytest.param(
            {**running("10.0.0.1"), "containerStatuses": [container({"terminated": {"exitCode": 1}})]},
            False,
            State.DOWN,
            "ended (status 1) and is started again",
            id="just-ended",
        ),
        pytest.param(
            {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
            False,
            State.READY,
            "",
            id="no-word-of-containers",
        ),
        pytest.param(
            {**running("10.0.0.1"), "podIP": ""}, False, State.STARTING, "is starting (Running)", id="no-address"
        ),
    ],
)
def test_a_pods_state_is_an_endpoints(status: dict[str, Any], deleted: bool, state: State, says: str) -> None:
    (endpoint,) = endpoints(pod("m-1-0", status, deleted=deleted))
    assert endpoint.name == "m-1-0"
    assert (endpoint.state, bool(endpoint.message)) == (state, bool(says))
    assert says in endpoint.message and "secret" not in endpoint.message
    assert endpoint.address == (f"{status['podIP']}:8000" if status.get("podIP") else "")


def test_an_ipv6_address_is_in_brackets() -> None:
    assert endpoints(pod("m", running("fd00::1")))[0].address == "[fd00::1]:8000"


def test_another_start_of_the_container_or_another_pod_is_another_engine() -> None:
    lives = [
        pod("m", running("10.0.0.1")),
        pod("m", running("10.0.0.1", restarts=1)),
        pod("m", running("10.0.0.1"), uid="another"),
    ]
    assert len({endpoints(life)[0].incarnation for life in lives}) == 3
    unready = pod("m", running("10.0.0.1", ready=False))
    assert endpoints(unready)[0].incarnation == endpoints(lives[0])[0].incarnation


def test_an_address_is_the_youngest_pods() -> None:
    old = pod("m-1-0", running("10.0.0.1"))
    new = pod("m-1-1", running("10.0.0.1"), created="2026-01-02T00:00:00Z")
    assert [(each.name, each.state) for each in endpoints(new, old)] == [
        ("m-1-0", State.DOWN),
        ("m-1-1", State.READY),
    ]
    new["status"]["phase"] = "Failed"
    assert [each.state for each in endpoints(new, old)] == [State.READY, State.DOWN], "an ended pod has no address"


def test_pods_without_an_address_have_none_in_common() -> None:
    states = [each.state for each in endpoints(pod("m-1-0", pending()), pod("m-1-1", pending()))]
    assert states == [State.STARTING, State.STARTING]


def test_pods_are_in_the_order_of_their_numbers() -> None:
    names = ["m-1-0", "m-1-9", "m-1-10", "m-2-0", "m-10-0"]
    assert [each.name for each in endpoints(*(pod(name, {}) for name in reversed(names)))] == names


CONDITION = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["Ready", "PodScheduled", "Other"]),
        "status": st.sampled_from(["True", "False", "Unknown"]),
    },
    optional={"reason": st.text(max_size=5), "message": st.text(max_size=5)},
)
STATE = st.fixed_dictionaries(
    {},
    optional={
        "waiting": st.fixed_dictionaries({}, optional={"reason": st.text(max_size=5)}),
        "running": st.just({}),
        "terminated": st.fixed_dictionaries({"exitCode": st.integers(0, 255)}),
    },
)
CONTAINER = st.builds(
    lambda state, last, name: {**container(state, last_state=last), "name": name},
    STATE,
    STATE,
    st.sampled_from(["engine", "sidecar"]),
)
STATUS = st.fixed_dictionaries(
    {},
    optional={
        "phase": st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
        "podIP": st.sampled_from(["10.0.0.1", "fd00::1"]),
        "conditions": st.none() | st.lists(CONDITION, max_size=3),
        "containerStatuses": st.none() | st.lists(CONTAINER, max_size=2),
        "initContainerStatuses": st.lists(CONTAINER, max_size=1),
    },
)


@given(st.lists(st.tuples(STATUS, st.booleans()), max_size=4))
def test_only_a_pod_that_lives_and_is_called_ready_is_ready(statuses: list[tuple[dict[str, Any], bool]]) -> None:
    pods = [pod(f"m-{number}", status, deleted=deleted) for number, (status, deleted) in enumerate(statuses)]
    known = endpoints(*pods)
    assert len(known) == len(pods)
    for endpoint, (status, deleted) in zip(known, statuses, strict=True):
        conditions = {each["type"]: each["status"] for each in reversed(status.get("conditions") or [])}
        if endpoint.state in (State.READY, State.UNREADY):
            assert not deleted and endpoint.address and status["phase"] in ("Running", "Unknown")
            assert (endpoint.state is State.READY) == (conditions.get("Ready") == "True")
        else:
            assert endpoint.message
        assert (endpoint.state is not State.DRAINING) or deleted
