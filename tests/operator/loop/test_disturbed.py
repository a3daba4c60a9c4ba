"""What lies between the operator and the API server on a bad day: lost events, old answers, refusals, silence."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import meddler
import programs
import pytest
from meddler import Asked, Fate, Meddler
from stage import Scene
from stage.scene import LEASES

from dp_vllm.kubernetes_api import Object
from dp_vllm_operator.cluster import MODEL, POD, Kind

pytestmark = pytest.mark.timeout(180)

SERVICES = Kind("v1", "services")


async def uids(scene: Scene) -> set[str]:
    return {pod["metadata"]["uid"] for pod in await scene.pods()}


async def test_a_missed_event_is_made_up_for_by_the_next_look_at_everything(scene: Scene) -> None:
    await scene.operator("--resync-seconds", "2")
    await scene.apply(replicas=2)
    await scene.until_ready()

    scene.meddler.swallow = lambda asked, event: True
    await scene.delete(POD, "m-1-0")
    await scene.delete(SERVICES, "m")
    await scene.until(lambda: _is_whole(scene), "pod and Service are there again")
    await scene.scale(3)
    await scene.until_ready(replicas=3)


async def _is_whole(scene: Scene) -> bool:
    return len(await scene.pods()) == 2 and "services/m" in await scene.children()


async def test_old_lists_make_and_delete_nothing_twice(scene: Scene) -> None:
    await scene.operator("--resync-seconds", "1")
    await scene.apply(replicas=3)
    await scene.until_ready()

    scene.meddler.stale = lambda asked: asked.path.endswith("/pods")
    async with scene.history() as moments:
        await scene.scale(1)
        await until_looked(scene)
        scene.meddler.stale = lambda asked: False
        await scene.until_ready(replicas=1)
    assert min(len(moment.live) for moment in moments) == 1

    scene.meddler.stale = lambda asked: asked.path.endswith("/pods")
    async with scene.history() as moments:
        await scene.scale(3)
        await until_looked(scene)
        scene.meddler.stale = lambda asked: False
        await scene.until_ready(replicas=3)
    assert max(len(moment.live) for moment in moments) == 3


def _looks(scene: Scene) -> int:
    """How often the pods of the model were asked for."""
    return sum(one.path.endswith("/pods") and "model" in one.query for one in scene.meddler.asked)


async def until_looked(scene: Scene) -> None:
    """Wait until the operator has looked at the pods three times more."""
    looks = _looks(scene) + 3

    async def has_looked() -> bool:
        return _looks(scene) >= looks

    await scene.until(has_looked, "the operator looks")


@pytest.mark.exhaustive
@pytest.mark.parametrize("fate", [Fate.CONFLICT, Fate.BROKEN, Fate.LOST, Fate.UNANSWERED])
async def test_writes_that_fail_now_and_then_only_take_longer(scene: Scene, fate: Fate) -> None:
    count = 0

    def every_second(asked: Asked) -> Fate:
        nonlocal count
        count += asked.writes and "/leases" not in asked.path
        return fate if asked.writes and "/leases" not in asked.path and count % 2 else Fate.PASS

    scene.meddler.fate = every_second
    await scene.operator("--resync-seconds", "5")
    async with scene.history() as moments:
        await scene.apply(replicas=2)
        await scene.until_ready(seconds=90)
        assert max(len(moment.live) for moment in moments) == 2
        await scene.apply(replicas=2, engine={"args": ["--seed=1"]})
        await scene.until_ready(seconds=90)
        assert max(len(moment.live) for moment in moments) == 3
    assert await scene.revisions_of_pods() == [2, 2]


@pytest.mark.exhaustive
async def test_an_api_server_that_answers_with_errors_for_a_while_loses_no_pod(scene: Scene) -> None:
    operator = await scene.operator("--resync-seconds", "2")
    await scene.apply(replicas=2)
    await scene.until_ready()
    before = await uids(scene)

    scene.meddler.fate = lambda asked: Fate.BROKEN
    before_errors = len(scene.meddler.asked)
    await scene.until(lambda: _asked_more(scene, before_errors + 6), "it has tried again", seconds=9)
    assert await _answers(operator.url + "/healthz", 200)
    scene.meddler.fate = lambda asked: Fate.PASS

    assert operator.alive
    assert await uids(scene) == before
    await scene.scale(3)
    await scene.until_ready(replicas=3)
    assert before < await uids(scene)


async def _asked_more(scene: Scene, than: int) -> bool:
    return len(scene.meddler.asked) > than


async def _answers(url: str, status: int) -> bool:
    return await asyncio.to_thread(programs.answers, url, status)


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.exhaustive)])
async def test_while_the_api_server_is_away_nothing_happens_and_then_what_was_missed(
    scene: Scene, seconds: float
) -> None:
    operator = await scene.operator("--resync-seconds", "300")
    await scene.apply(replicas=2)
    await scene.until_ready()
    before = await uids(scene)
    scene.meddler.away = True
    await scene.scale(3)
    await scene.delete(SERVICES, "m")
    await asyncio.sleep(seconds)
    assert await uids(scene) == before
    scene.meddler.away = False
    if seconds > 10:  # the Lease is lost meanwhile: then an operator ends, and the kubelet starts it again
        await scene.until(lambda: _ended(operator.alive), "it has ended")
        await scene.operator()
    back = time.monotonic()

    await scene.until_ready(replicas=3)
    assert time.monotonic() - back < 20
    assert before < await uids(scene)
    assert "services/m" in await scene.children()


async def _ended(alive: bool) -> bool:
    return not alive


@contextlib.asynccontextmanager
async def another(scene: Scene) -> AsyncIterator[Meddler]:
    """A second way to the API server."""
    async with meddler.before(scene.cluster.kubeconfig) as second:
        yield second


async def test_of_two_operators_one_acts_and_the_other_goes_on_when_it_dies(scene: Scene) -> None:
    async with another(scene) as second:
        kubeconfig = second.kubeconfig(scene.meddled.with_suffix(".second"))
        first_one = await scene.operator(identity="first")
        second_one = await scene.operator(identity="second", kubeconfig=kubeconfig)
        await scene.apply(replicas=2)
        await scene.until_ready()
        assert scene.meddler.writes
        assert not [one for one in second.writes if "/leases" not in one.path]
        assert (await lease(scene))["holderIdentity"] == "first"

        first_one.kill()
        await scene.scale(3)
        await scene.until_ready(replicas=3)
        assert (await lease(scene))["holderIdentity"] == "second"
        assert second_one.alive


@pytest.mark.exhaustive
async def test_an_operator_that_ends_lets_the_next_one_begin_at_once(scene: Scene) -> None:
    first_one = await scene.operator(identity="first")
    await scene.apply(replicas=1)
    await scene.until_ready()
    first_one.end()
    await scene.until(lambda: _ended(first_one.alive), "it has ended")
    assert not (await lease(scene)).get("holderIdentity")

    began = time.monotonic()
    await scene.operator(identity="second")
    await scene.scale(2)
    await scene.until(lambda: _are(scene, 2), "it acts")
    assert time.monotonic() - began < 14  # less than the Lease lasts
    await scene.until_ready(replicas=2)
    assert "Traceback" not in first_one.output()


@pytest.mark.exhaustive
async def test_an_operator_that_lost_its_lease_ends_before_another_may_act(scene: Scene) -> None:
    operator = await scene.operator(identity="first")
    await scene.apply(replicas=1)
    await scene.until_ready()

    scene.meddler.away = True
    await scene.until(lambda: _ended(operator.alive), "it has ended", seconds=20)
    assert "lost the Lease" in operator.output()
    assert len(await scene.pods()) == 1


async def _are(scene: Scene, count: int) -> bool:
    return len(await scene.pods()) == count


async def lease(scene: Scene) -> Object:
    spec: Object = (await scene.get(LEASES, "dp-vllm-operator"))["spec"]
    return spec


@pytest.mark.exhaustive
async def test_a_pod_that_a_person_has_taken_out_by_its_label_is_replaced(scene: Scene) -> None:
    await scene.operator()
    await scene.apply(replicas=2)
    await scene.until_ready()
    await scene.patch(POD, "m-1-0", {"metadata": {"labels": {"dpvllm.io/model": None}}})
    await scene.until_ready()
    assert await scene.pod_names() == ["m-1-1", "m-1-1000"]


@pytest.mark.exhaustive
async def test_what_a_watch_tells_too_late_is_told_of_a_model_that_is_gone(scene: Scene) -> None:
    operator = await scene.operator("--resync-seconds", "2")
    await scene.apply(replicas=1)
    await scene.until_ready()
    scene.meddler.swallow = lambda asked, event: json.loads(event)["object"]["kind"] == "DPModel"
    await scene.delete(MODEL, "m")
    await scene.until(lambda: _is_empty(scene), "all is gone", seconds=60)
    assert operator.alive
    assert "Traceback" not in operator.output()


async def _is_empty(scene: Scene) -> bool:
    return not await scene.children()
