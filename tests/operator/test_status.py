"""What the status of a model says beside its conditions, and when it is written."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import observations
import pytest
from fleets import NOW
from hypothesis import given
from hypothesis import strategies as st
from observations import condition, model, observed, said, trouble

from dp_vllm import names
from dp_vllm.crd.status import MOST_REPLICAS, Status
from dp_vllm_operator.model import Model
from dp_vllm_operator.observed import Observed
from dp_vllm_operator.plan import RolloutState
from dp_vllm_operator.progress import Progress
from dp_vllm_operator.status import PROGRESS_SECONDS, invalid, same, status, write_in_seconds


def test_counts() -> None:
    written = status(model(4), observed("1:ready 2:ready 2:fresh 2:starting 2:ending 2:failed", ready_revision=1), NOW)
    counts = {name: written[name] for name in written if name.endswith("eplicas")}
    assert counts == {"replicas": 4, "readyReplicas": 3, "updatedReplicas": 3, "availableReplicas": 2}
    assert (written["revision"], written["readyRevision"]) == (2, 1)


def test_zeros_are_written() -> None:
    written = status(model(), observed(revision=None), NOW)
    assert [written[f"{which}eplicas"] for which in ("r", "readyR", "updatedR", "availableR")] == [0, 0, 0, 0]
    assert "revision" not in written and "readyRevision" not in written


def test_the_endpoint_is_the_services() -> None:
    asked = model(gateway={"service": {"port": 8080}})
    assert status(asked, observed(), NOW)["endpoint"] == "http://m.ns.svc:8080/v1"


def test_somebody_elses_service_is_no_endpoint() -> None:
    assert "endpoint" not in status(model(), observed(conflicts=("services/m",)), NOW)


def test_the_selector_selects_replicas() -> None:
    asked = model()
    terms = dict(term.split("=") for term in status(asked, observed(), NOW)["selector"].split(","))
    assert terms.items() <= asked.labels("replica").items()
    assert not terms.items() <= asked.labels("gateway").items()


def test_replicas_that_are_not_ready_come_first() -> None:
    found = observed(
        "2:ready 2:ending 2:starting 2:starting", troubles={"m-2-3": trouble("CrashLoopBackOff", "exit code 2")}
    )
    written = status(model(), found, NOW)["replicaStatuses"]
    shown = [(one["name"], one["phase"]) for one in written]
    assert shown == [("m-2-3", "CrashLoopBackOff"), ("m-2-2", "Creating"), ("m-2-1", "Draining"), ("m-2-0", "Ready")]
    assert written[0]["message"] == "exit code 2" and "message" not in written[3]


def test_of_many_replicas_those_that_are_not_ready_are_shown() -> None:
    shown = status(model(100), observed("2:ready*90 2:starting*10"), NOW)["replicaStatuses"]
    assert len(shown) == MOST_REPLICAS
    assert [one["phase"] for one in shown] == ["Creating"] * 10 + ["Ready"] * 22


def test_how_far_a_replica_is() -> None:
    found = observed("2:starting", progress={"m-2-0": Progress("Loading", "loading weights", 40)})
    assert status(model(), found, NOW)["replicaStatuses"] == [
        {"name": "m-2-0", "phase": "Loading", "progress": 40, "message": "loading weights"}
    ]


# as Kubernetes wants it


@given(observations.any_model, observations.any_observed())
def test_every_status_is_as_the_custom_resource_says(asked: Model, found: Observed) -> None:
    written = status(asked, found, NOW)
    msgspec.convert(written, Status)
    assert [one["type"] for one in written["conditions"]] == ["Ready", "Available", "Progressing", "Degraded"]
    assert all(one["observedGeneration"] == asked.generation for one in written["conditions"])


@given(observations.any_model, observations.any_observed())
def test_a_status_that_is_written_need_not_be_written_again(asked: Model, found: Observed) -> None:
    written = status(asked, found, NOW)
    again = status(replace(asked, status=written), found, NOW)
    assert same(written, again)
    assert write_in_seconds(written, again, NOW, NOW) is None


@given(observations.any_model, st.lists(observations.any_observed(), min_size=2, max_size=6))
def test_a_transition_time_changes_with_its_status_alone(asked: Model, seen: list[Observed]) -> None:
    before: dict[str, Any] = {}
    for step, found in enumerate(seen):
        written = status(replace(asked, status=before), found, NOW + step)
        for one in written["conditions"]:
            old = condition(before, one["type"]) if before else {}
            stayed = old.get("status") == one["status"]
            now = datetime.fromtimestamp(NOW + step, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            assert one["lastTransitionTime"] == (old["lastTransitionTime"] if stayed else now)
        before = written


@given(observations.any_model, observations.any_observed())
def test_ready_means_that_all_serve(asked: Model, found: Observed) -> None:
    written = status(asked, found, NOW)
    if said(written, "Ready")[0] == "True":
        assert sum(one.ready and one.revision == found.revision for one in found.replicas) >= asked.spec.replicas
        assert found.gateway is not None and found.gateway.available > 0
    if said(written, "Ready") == ("True", "AllReplicasReady"):
        assert said(written, "Degraded")[0] == "False"


def test_an_edit_of_a_model_that_is_left_alone_is_not_said_to_be_seen() -> None:
    before = status(model(generation=3), observed("2:ready*2"), NOW)
    asked = model(generation=4, status=before, annotations={names.RECONCILE_ANNOTATION: "disabled"})
    written = status(asked, observed("2:ready*2"), NOW)
    assert written["observedGeneration"] == condition(written, "Ready")["observedGeneration"] == 3


# a spec that cannot be read


def body(old: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"metadata": {"generation": 5}} | ({"status": old} if old is not None else {})


def test_an_invalid_spec_keeps_what_is_known_of_the_replicas() -> None:
    old = status(model(), observed("2:ready*2"), NOW)
    written = invalid(body(old), "spec.replicas: 'x' is not allowed", NOW + 60)
    msgspec.convert(written, Status)
    assert said(written, "Ready") == ("False", "InvalidSpec")
    assert condition(written, "Ready")["message"].startswith("spec.replicas: 'x' is not allowed")
    assert said(written, "Degraded") == ("True", "InvalidSpec")
    assert condition(written, "Available") == condition(old, "Available")
    assert (written["readyReplicas"], written["observedGeneration"]) == (2, 5)


def test_an_invalid_spec_from_the_start() -> None:
    written = invalid(body(), "spec.model is missing", NOW)
    msgspec.convert(written, Status)
    assert said(written, "Available") == ("Unknown", "InvalidSpec")
    assert (written["replicas"], written["readyReplicas"]) == (0, 0)
    assert same(written, invalid(body(written), "spec.model is missing", NOW + 60))


# when it is written


def loading(percent: int) -> dict[str, Any]:
    doing = Progress("Loading", "loading weights", percent)
    return status(model(), observed("2:ready 2:starting", RolloutState.SCALING, progress={"m-2-1": doing}), NOW)


@pytest.mark.parametrize(
    ("last_written", "seconds"),
    [
        (NOW, PROGRESS_SECONDS),
        (NOW - 4, PROGRESS_SECONDS - 4),
        (NOW - 10, 0.0),
        (0.0, 0.0),
        (NOW + 999, PROGRESS_SECONDS),
    ],
)
def test_progress_alone_waits(last_written: float, seconds: float) -> None:
    assert write_in_seconds(loading(40), loading(50), NOW, last_written) == seconds


@pytest.mark.parametrize(
    "changed",
    [
        observed("2:ready 2:ready"),
        observed("2:ready 2:starting", RolloutState.SCALING, troubles={"m-2-1": trouble("OOMKilled")}),
        observed("2:ready 2:starting", RolloutState.ROLLING),
        observed("2:ready 2:starting", RolloutState.SCALING, revision=1),
    ],
    ids=["ready", "trouble", "rollout", "revision"],
)
def test_everything_else_is_written_at_once(changed: Observed) -> None:
    assert write_in_seconds(loading(40), status(model(), changed, NOW), NOW, NOW) == 0.0


def test_the_first_status_is_written_at_once() -> None:
    assert write_in_seconds({}, loading(40), NOW, NOW) == 0.0
