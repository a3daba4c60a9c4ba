"""What replicas do on their way to Ready, by their pods and by what their engines say."""

from dataclasses import replace
from datetime import UTC, datetime

import fleets
import pod_samples
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm_operator.progress import PHASES, Progress, progress, start, tens

SHARDS = "Loading safetensors checkpoint shards: {:3}% Completed | 1/4 [00:01<00:03]"


@pytest.mark.parametrize(
    ("name", "phase"),
    [
        ("ready", "Ready"),
        ("not-ready", "NotReady"),
        ("gpus-short", "Waiting"),
        ("scheduling-gated", "Waiting"),
        ("mount-missing", "Creating"),
        ("init-runs", "Creating"),
        ("node-lost-deleted", "Draining"),
        ("succeeded", "Succeeded"),
        ("failed", "Failed"),
    ],
)
def test_phases_of_real_pods(name: str, phase: str) -> None:
    replica = pod_samples.replica(name)
    assert progress(replica, [SHARDS.format(50)], replica.created_at).phase == phase


def starting() -> dict[str, object]:
    return {"status": {"containerStatuses": [{"name": "engine", "state": {"running": {}}}]}}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], Progress("Starting", "its engine starts")),
        (["Fetching 4 files:  25%|##5       | 1/4"], Progress("Downloading", "downloading the model", 20)),
        ([SHARDS.format(0)], Progress("Loading", "loading weights", 0)),
        ([SHARDS.format(59)], Progress("Loading", "loading weights", 50)),
        (
            ["INFO [backends.py:80] Using cache directory: /x for vLLM's torch.compile"],
            Progress("Compiling", "compiling the model"),
        ),
        (["INFO [monitor.py:48] torch.compile took 10.78 s in total"], Progress("WarmingUp", "the model is compiled")),
    ],
)
def test_an_engine_that_starts_says_how_far_it_is(lines: list[str], expected: Progress) -> None:
    replica = replace(fleets.pod(0, 1), body=starting())
    assert progress(replica, lines, fleets.NOW) == expected == (start(lines))


def test_a_start_is_shown_in_few_steps() -> None:
    """Each is a write of the status."""
    shown = {start([SHARDS.format(percent)]) for percent in range(101)}
    assert len(shown) == 11


@given(st.floats(-1e6, 1e6))
def test_tens(percent: float) -> None:
    shown = tens(percent)
    assert shown in range(0, 101, 10)
    assert not 0 <= percent <= 100 or 0 <= percent - shown < 10


def test_a_replica_that_ends_does_not_tick() -> None:
    replica = fleets.pod(0, 1, ready_seconds=100, ends_by=fleets.NOW + 300)
    shown = {progress(replica, (), fleets.NOW + seconds) for seconds in range(300)}
    (only,) = shown
    at = datetime.fromtimestamp(fleets.NOW + 300, UTC)
    assert only == Progress("Draining", f"finishes its requests, until {at:%H:%M:%S} UTC at the latest")


def test_a_replica_that_should_have_ended_has_lost_its_node() -> None:
    replica = pod_samples.replica("node-lost-deleted")
    assert replica.ends_by is not None
    assert "node1 does not answer" in progress(replica, (), replica.ends_by + 60).message


@pytest.mark.parametrize("name", pod_samples.NAMES)
def test_every_phase_is_known_or_the_end_of_a_pod(name: str) -> None:
    replica = pod_samples.replica(name)
    assert progress(replica, (), replica.created_at).phase in (*PHASES, "Failed", "Succeeded")
