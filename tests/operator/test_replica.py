"""A pod's JSON as a replica."""

from typing import Any

import pytest
from fleets import INSUFFICIENT, NOW, UNBOUND, pod

from dp_vllm import names
from dp_vllm_operator.replica import READY_SECONDS, Replica, seconds

GATED = "Scheduling is blocked due to non-empty scheduling gates"
CREATED, BOUND, TURNED, DELETED = (f"2026-07-01T10:0{minute}:00Z" for minute in range(4))
Conditions = tuple[dict[str, Any], ...]


def condition(kind: str, status: str, at: str | None, **said: str) -> dict[str, Any]:
    return {"type": kind, "status": status, "lastTransitionTime": at, **said}


def read(*conditions: dict[str, Any], metadata: Any = (), spec: Any = (), status: Any = ()) -> Replica:
    """A pod of revision 3, with what a test is about."""
    return Replica.of(
        {
            "metadata": {
                "name": "some-model-3-12",
                "uid": "u",
                "creationTimestamp": CREATED,
                "labels": {names.REVISION_LABEL: "3"},
                **dict(metadata),
            },
            "spec": {"containers": [{"name": names.ENGINE_CONTAINER}], **dict(spec)},
            "status": {"phase": "Pending", "conditions": list(conditions), **dict(status)},
        }
    )


def test_one_that_nobody_has_looked_at_yet() -> None:
    replica = Replica.of({"metadata": {"name": "m-1-0", "uid": "u", "creationTimestamp": CREATED}})
    assert (replica.number, replica.revision, replica.phase) == (0, 0, "Pending")
    assert (replica.lives, replica.ready, replica.started, replica.bound) == (True, False, False, False)
    assert replica.waiting_since == replica.created_at == seconds(CREATED)


def test_its_name_and_revision() -> None:
    replica = read(metadata={"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-7"}})
    assert (replica.number, replica.revision, replica.deletion_cost) == (12, 3, -7)


@pytest.mark.parametrize(
    ("conditions", "waiting_since", "ready_since"),
    [
        ((), CREATED, None),
        ((condition("PodScheduled", "False", BOUND, reason="Unschedulable"),), CREATED, None),
        ((condition("PodScheduled", "True", BOUND),), BOUND, None),
        ((condition("PodScheduled", "True", BOUND), condition("Ready", "False", BOUND)), BOUND, None),
        ((condition("PodScheduled", "True", BOUND), condition("Ready", "False", TURNED)), TURNED, None),
        ((condition("PodScheduled", "True", BOUND), condition("Ready", "True", TURNED)), TURNED, TURNED),
        ((condition("Ready", "False", "2020-01-01T00:00:00Z"),), CREATED, None),
    ],
    ids=["made", "unscheduled", "bound", "starting", "no longer ready", "ready", "a node's clock is behind"],
)
def test_since_when_it_is_on_its_way(conditions: Conditions, waiting_since: str, ready_since: str | None) -> None:
    replica = read(*conditions)
    assert replica.waiting_since == seconds(waiting_since)
    assert replica.ready_since == (None if ready_since is None else seconds(ready_since))


@pytest.mark.parametrize("at", [BOUND, None], ids=["with a time", "as older API servers leave it"])
def test_scheduling_gates(at: str | None) -> None:
    replica = read(condition("PodScheduled", "False", at, reason="SchedulingGated", message=GATED))
    assert replica.gated
    assert replica.unscheduled_message == GATED
    assert replica.unscheduled_since == seconds(at or CREATED)


def test_one_on_a_node_is_not_unscheduled() -> None:
    replica = read(condition("PodScheduled", "True", BOUND, reason="?"), spec={"nodeName": "n"})
    assert (replica.bound, replica.unscheduled, replica.unscheduled_since) == (True, "", None)


@pytest.mark.parametrize(
    ("container", "started"),
    [
        ({"name": names.ENGINE_CONTAINER, "started": True}, True),
        ({"name": names.ENGINE_CONTAINER, "started": False}, False),
        ({"name": names.ENGINE_CONTAINER}, False),
        ({"name": "sidecar", "started": True}, False),
    ],
)
def test_whether_its_engine_started(container: dict[str, Any], started: bool) -> None:
    assert read(status={"containerStatuses": [container]}).started is started


def test_its_accelerators() -> None:
    def container(**limits: object) -> dict[str, Any]:
        return {"name": names.ENGINE_CONTAINER, "resources": {"limits": limits}}

    both = [container(**{"nvidia.com/gpu": 4, "memory": "1Gi"}), container(**{"nvidia.com/gpu": "1", "rdma/hca": "2"})]
    assert read(spec={"containers": both}).accelerators == {"nvidia.com/gpu": 5, "rdma/hca": 2}


def test_one_that_is_deleted_is_gone_though_it_is_ready() -> None:
    replica = read(condition("Ready", "True", TURNED), metadata={"deletionTimestamp": DELETED})
    assert (replica.terminating, replica.lives, replica.ready) == (True, False, False)
    assert replica.ends_by == seconds(DELETED)


@pytest.mark.parametrize(
    ("status", "end"),
    [
        ({"phase": "Failed", "reason": "UnexpectedAdmissionError"}, "Failed (UnexpectedAdmissionError)"),
        ({"phase": "Succeeded"}, "Succeeded"),
    ],
)
def test_a_dead_one_says_how_it_ended(status: dict[str, str], end: str) -> None:
    replica = read(status=status)
    assert (replica.ended, replica.lives, replica.end) == (True, False, end)


@pytest.mark.parametrize(
    ("since", "available"),
    [(READY_SECONDS, True), (READY_SECONDS - 1, False), (0, False), (1 - READY_SECONDS, False), (-3600, True)],
)
def test_it_counts_after_a_while_of_being_ready(since: float, available: bool) -> None:
    """Whatever a clock says that is far ahead."""
    assert pod(0, 1, ready_seconds=since).available(NOW) is available


def test_one_that_is_ending_does_not_count() -> None:
    assert not pod(0, 1, ready_seconds=READY_SECONDS, ends_by=NOW + 300).available(NOW)


@pytest.mark.parametrize(
    ("reason", "message", "lacks"),
    [
        ("Unschedulable", INSUFFICIENT, True),
        ("Unschedulable", "0/1 nodes are available: 1 Insufficient memory, 1 Insufficient nvidia.com/gpu.", True),
        ("Unschedulable", UNBOUND, False),
        ("Unschedulable", "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.shared.", False),
        ("Unschedulable", "0/1 nodes are available: 1 Insufficient nvidia.com/gpu-h100.", False),
        ("Unschedulable", "0/1 nodes are available: 1 Insufficient cpu.", False),
        ("SchedulingGated", INSUFFICIENT, False),
    ],
)
def test_whether_it_lacks_accelerators(reason: str, message: str, lacks: bool) -> None:
    assert pod(0, 1, unscheduled=reason, unscheduled_message=message).lacks_accelerators is lacks


def test_one_that_asks_for_none_lacks_none() -> None:
    assert not pod(0, 1, unscheduled="Unschedulable", unscheduled_message=INSUFFICIENT, gpus=0).lacks_accelerators
