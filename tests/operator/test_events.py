"""What people are told of a model: which changes are news, and the Events that a real API server gets."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from cluster.audit import Audit
from cluster.fixtures import Kubectl
from cluster.given import AnyCluster
from dpmodels import manifest
from fleets import NOW
from observations import model, observed, trouble

from dp_vllm import names
from dp_vllm.kubernetes_api import KubernetesApi
from dp_vllm_operator.events import FORGOTTEN_SECONDS, LONGEST, Recorder
from dp_vllm_operator.news import News, news
from dp_vllm_operator.observed import Observed
from dp_vllm_operator.plan import RolloutState
from dp_vllm_operator.status import status

READY = observed("2:ready*2")
STARTING = observed("2:ready 2:starting", RolloutState.SCALING)
CRASHING = observed("2:ready 2:starting", RolloutState.SCALING, troubles={"m-2-1": trouble("CrashLoopBackOff")})
NO_MEMORY = observed("2:ready 2:starting", RolloutState.SCALING, troubles={"m-2-1": trouble("OOMKilled")})
LONE = observed("2:starting", RolloutState.SCALING)


def told(before: Observed | None, after: Observed) -> list[tuple[str, bool]]:
    old = {} if before is None else status(model(), before, NOW)
    return [(one.reason, one.warns) for one in news(old, status(model(), after, NOW))]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(None, STARTING, [], id="it starts"),
        pytest.param(STARTING, STARTING, [], id="nothing"),
        pytest.param(STARTING, READY, [("AllReplicasReady", False)], id="it is ready"),
        pytest.param(STARTING, CRASHING, [("CrashLoopBackOff", True)], id="it crashes"),
        pytest.param(CRASHING, CRASHING, [], id="it crashes again and again"),
        pytest.param(CRASHING, NO_MEMORY, [("OOMKilled", True)], id="another trouble"),
        pytest.param(CRASHING, STARTING, [], id="it goes on"),
        pytest.param(READY, LONE, [("NoReplicaReady", True)], id="none serves any more"),
        pytest.param(
            READY, observed("1:ready*2", RolloutState.PAUSED), [("Paused", False)], id="a user has paused the rollout"
        ),
    ],
)
def test_news(before: Observed | None, after: Observed, expected: list[tuple[str, bool]]) -> None:
    assert told(before, after) == expected


def test_news_says_what_the_condition_says() -> None:
    (only,) = news(status(model(), STARTING, NOW), status(model(), CRASHING, NOW))
    assert only == News("CrashLoopBackOff", "m-2-1: it is so", warns=True)


# on a real API server


@dataclass
class Told:
    """A recorder whose time stands still unless the test says otherwise, and the Events that have come of it."""

    api: KubernetesApi
    namespace: str
    most: int = 100
    now: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.api, "operator-0", lambda: self.now, most=self.most)
        self.subject = model_in(self.namespace)

    async def shown(self, *expected: tuple[str, int]) -> list[dict[str, Any]]:
        """Wait until the Events of models have these messages and counts."""
        async with asyncio.timeout(30):
            while sorted((event["message"], event["count"]) for event in await self.events()) != sorted(expected):
                await asyncio.sleep(0.05)
        return await self.events()

    async def events(self) -> list[dict[str, Any]]:
        listed = await self.api.request("GET", f"/api/v1/namespaces/{self.namespace}/events")
        ours = [event for event in listed["items"] if event["involvedObject"]["kind"] == "DPModel"]
        return sorted(ours, key=lambda event: (event["type"], event["reason"], event["message"]))


def model_in(namespace: str, name: str = "m") -> Any:
    return model(name=name, namespace=namespace, uid=f"uid-of-{name}")


@contextlib.asynccontextmanager
async def running(recorder: Recorder) -> AsyncIterator[None]:
    task = asyncio.create_task(recorder.run())
    yield
    assert not task.done(), "it ended by itself"
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.fixture
async def noted(api: KubernetesApi, namespace: str) -> AsyncIterator[Told]:
    told = Told(api, namespace)
    async with running(told.recorder):
        yield told


async def test_kubectl_describes_what_happened_to_a_model(noted: Told, dpmodels: AnyCluster, kubectl: Kubectl) -> None:
    kubectl("create", "--filename=-", stdin=manifest("m"))
    made = json.loads(kubectl("get", "dpm", "m", "--output=json"))["metadata"]
    subject = model(namespace=made["namespace"], uid=made["uid"])
    noted.recorder.normal(subject, "Replicas", "create 2 replicas")
    noted.recorder.warning(subject, "OOMKilled", "m-1-0: raise\nthe memory")
    await noted.shown(("create 2 replicas", 1), ("m-1-0: raise the memory", 1))
    described = [" ".join(line.split()) for line in kubectl("describe", "dpm", "m").splitlines()]
    told = sorted(re.sub(r" \d+s ", " ", line) for line in described if names.OPERATOR in line)
    assert told == [
        f"Normal Replicas {names.OPERATOR} create 2 replicas",
        f"Warning OOMKilled {names.OPERATOR} m-1-0: raise the memory",
    ]


async def test_what_is_noted_again_within_a_minute_is_counted(noted: Told) -> None:
    noted.recorder.warning(noted.subject, "OOMKilled", "m-1-0")
    (first,) = await noted.shown(("m-1-0", 1))
    for _ in range(5):
        noted.recorder.warning(noted.subject, "OOMKilled", "m-1-0")
    noted.recorder.normal(noted.subject, "Awake", "now")
    await noted.shown(("m-1-0", 1), ("now", 1))
    noted.now += 60
    noted.recorder.normal(noted.subject, "Awake", "now")
    again = await noted.shown(("m-1-0", 6), ("now", 2))
    (oom,) = [event for event in again if event["reason"] == "OOMKilled"]
    assert oom["metadata"]["uid"] == first["metadata"]["uid"]
    assert oom["firstTimestamp"] == first["firstTimestamp"] < oom["lastTimestamp"]


async def test_what_else_happens_within_a_minute_is_told_together(noted: Told) -> None:
    noted.recorder.normal(noted.subject, "Replicas", "create 1")
    await noted.shown(("create 1", 1))
    for message in ("create 2", "create 3", "create 2"):
        noted.recorder.normal(noted.subject, "Replicas", message)
    noted.now += 60
    noted.recorder.normal(noted.subject, "Awake", "now")
    await noted.shown(("create 1", 1), ("create 2; create 3", 3), ("now", 1))


async def test_models_and_reasons_do_not_wait_for_each_other(noted: Told, namespace: str) -> None:
    noted.recorder.warning(noted.subject, "OOMKilled", "a")
    noted.recorder.warning(noted.subject, "ImagePullBackOff", "b")
    noted.recorder.warning(model_in(namespace, "other"), "OOMKilled", "c")
    await noted.shown(("a", 1), ("b", 1), ("c", 1))


async def test_an_event_that_is_gone_is_made_anew(noted: Told, kubectl: Kubectl) -> None:
    noted.recorder.warning(noted.subject, "OOMKilled", "m-1-0")
    await noted.shown(("m-1-0", 1))
    kubectl("delete", "events", "--all")
    noted.now += 60
    noted.recorder.warning(noted.subject, "OOMKilled", "m-1-0")
    await noted.shown(("m-1-0", 1))


async def test_what_was_quiet_for_long_is_another_event(noted: Told) -> None:
    noted.recorder.warning(noted.subject, "OOMKilled", "m-1-0")
    await noted.shown(("m-1-0", 1))
    noted.now += FORGOTTEN_SECONDS + 1
    noted.recorder.warning(noted.subject, "OOMKilled", "m-1-0")
    await noted.shown(("m-1-0", 1), ("m-1-0", 1))


async def test_very_long_messages_are_cut(noted: Told) -> None:
    noted.recorder.warning(noted.subject, "OOMKilled", "m" * 5000)
    for number in range(500):
        noted.recorder.warning(noted.subject, "OOMKilled", f"{number}: {'x' * 50}")
    async with asyncio.timeout(20):
        while not (events := await noted.events()):
            await asyncio.sleep(0.05)
    assert len(events[0]["message"]) == LONGEST and events[0]["count"] == 501


async def test_what_is_refused_is_lost_and_nothing_else(noted: Told) -> None:
    noted.recorder.warning(model_in("no-such-namespace", "lost"), "OOMKilled", "lost")
    noted.recorder.warning(noted.subject, "OOMKilled", "kept")
    await noted.shown(("kept", 1))
    noted.now += 60
    noted.recorder.warning(model_in("no-such-namespace", "lost"), "OOMKilled", "lost again")
    noted.recorder.warning(noted.subject, "OOMKilled", "kept")
    await noted.shown(("kept", 2))


async def test_only_so_much_is_remembered(api: KubernetesApi, namespace: str) -> None:
    told = Told(api, namespace, most=2)
    for name in ("a", "b", "c"):
        told.recorder.normal(model_in(namespace, name), "Replicas", name)
    async with running(told.recorder):
        await told.shown(("b", 1), ("c", 1))


async def test_a_flood_is_a_trickle(api: KubernetesApi, namespace: str, audit: Audit) -> None:
    """A second stands for the minute here, and the time is real."""
    told, begin, count = Told(api, namespace), time.monotonic(), 0
    told.recorder = Recorder(api, "operator-0", every_seconds=1.0)
    async with running(told.recorder):
        while time.monotonic() - begin < 2.5:
            told.recorder.warning(told.subject, "OOMKilled", "m-1-0")
            count += 1
            await asyncio.sleep(0.001)
        await told.shown(("m-1-0", count))
    seconds = time.monotonic() - begin
    events = [call for call in audit.calls() if call.resource == "events" and call.namespace == namespace]
    assert 2 <= sum(call.writes for call in events) <= seconds + 1
