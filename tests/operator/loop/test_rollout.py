"""How replicas are replaced when a DPModel changes: how many serve meanwhile, what stops it, and the way back."""

import pytest
from kubelet import IMAGE_PULL, NEVER_READY, READY
from stage import Moment, Scene

from dp_vllm_operator.cluster import POD, REVISION

pytestmark = pytest.mark.timeout(180)

SURGE = {"strategy": "Surge", "drainTimeoutSeconds": 0}
DRAIN = {"strategy": "Drain", "drainTimeoutSeconds": 0}


def args(*words: str) -> dict[str, list[str]]:
    return {"args": list(words)}


def fewest(moments: list[Moment]) -> int:
    return min(len(moment.ready) for moment in moments)


def most(moments: list[Moment]) -> int:
    return max(len(moment.live) for moment in moments)


async def test_surge_serves_with_as_many_as_wanted_all_the_time(scene: Scene) -> None:
    scene.kubelet.ready_for(0)  # as on real nodes, where a replica counts only after a while
    await scene.operator()
    await scene.apply(replicas=2, rollout=SURGE)
    await scene.until_ready()

    async with scene.history() as moments:
        await scene.apply(replicas=2, rollout=SURGE, engine=args("--max-model-len", "8192"))
        await scene.until_ready(seconds=60)

    assert await scene.revisions_of_pods() == [2, 2]
    assert (fewest(moments), most(moments)) == (2, 3)
    engines = [pod["spec"]["containers"][0] for pod in await scene.pods()]
    assert all("8192" in " ".join([*engine.get("command", ()), *engine["args"]]) for engine in engines)


@pytest.mark.exhaustive
async def test_drain_misses_one_at_most_and_takes_no_more_gpus(scene: Scene) -> None:
    await scene.operator()
    await scene.apply(replicas=2, rollout=DRAIN)
    await scene.until_ready()

    async with scene.history() as moments:
        await scene.annotate(restart="1")
        await scene.until(lambda: are_of(scene, [2, 2]), "all are new", seconds=60)
        await scene.until_ready(seconds=60)

    assert (fewest(moments), most(moments)) == (1, 2)


async def are_of(scene: Scene, revisions: list[int]) -> bool:
    return await scene.revisions_of_pods() == revisions


@pytest.mark.exhaustive
async def test_auto_makes_room_where_there_are_no_gpus_for_one_more(scene: Scene) -> None:
    rollout = {"surgeTimeoutSeconds": 1, "drainTimeoutSeconds": 0}
    await scene.operator()
    await scene.apply(replicas=2, tensorParallelSize=8, rollout=rollout)
    await scene.until_ready()

    async with scene.history() as moments:
        await scene.apply(replicas=2, tensorParallelSize=8, rollout=rollout, engine=args("--seed=1"))
        await scene.until_ready(seconds=90)

    assert await scene.revisions_of_pods() == [2, 2]
    assert (fewest(moments), most(moments)) == (1, 3)


@pytest.mark.exhaustive
async def test_the_way_back_is_by_the_old_revision_asked_for_by_number_or_by_its_spec(scene: Scene) -> None:
    await scene.operator()
    await scene.apply(replicas=1)
    await scene.until_ready()
    await scene.apply(replicas=1, engine=args("--seed=1"))
    await scene.until_ready()
    assert await scene.revisions_of_pods() == [2]

    await scene.annotate(undo="7")
    seen = await scene.until_condition("Degraded", "UndoFailed", "True")
    assert "revision '7' does not exist; the revisions are 1, 2" in seen["message"]
    assert await scene.revisions_of_pods() == [2]

    await scene.annotate(undo="1")
    await scene.until(lambda: are_of(scene, [1]), "back by number")
    await scene.until_ready()
    await scene.annotate(undo=None)
    await scene.until(lambda: are_of(scene, [2]), "forward again")
    await scene.until_ready()
    await scene.apply(replicas=1)
    await scene.until(lambda: are_of(scene, [1]), "back by its spec")
    await scene.until_ready()
    assert len(await scene.listed(REVISION)) == 2


@pytest.mark.exhaustive
async def test_a_change_in_the_middle_of_a_rollout_leads_to_the_last_one(scene: Scene) -> None:
    scene.kubelet.script("m-2-2", NEVER_READY)  # the second new one: the rollout stays in its middle
    await scene.operator()
    await scene.apply(replicas=3, rollout=SURGE)
    await scene.until_ready()

    async with scene.history() as moments:
        await scene.apply(replicas=3, rollout=SURGE, engine=args("--seed=1"))
        await scene.until(lambda: are_of(scene, [1, 1, 2, 2]), "one is replaced, and the next one is on its way")
        await scene.apply(replicas=3, rollout=SURGE, engine=args("--seed=2"))
        await scene.until_ready(seconds=90)

    assert await scene.revisions_of_pods() == [3, 3, 3]
    assert (fewest(moments), most(moments)) == (3, 4)


@pytest.mark.exhaustive
async def test_a_paused_rollout_stands_still_and_goes_on(scene: Scene) -> None:
    await scene.operator()
    await scene.apply(replicas=2)
    await scene.until_ready()

    paused = {"paused": True, "drainTimeoutSeconds": 0}
    await scene.apply(replicas=2, rollout=paused, engine=args("--seed=1"))
    await scene.until_condition("Progressing", "Paused", "False")
    await scene.scale(3)
    await scene.until(lambda: are_of(scene, [1, 1, 1]), "scaling goes on, of the old revision")

    await scene.apply(replicas=3, engine=args("--seed=1"))
    await scene.until_ready(seconds=90)
    assert await scene.revisions_of_pods() == [2, 2, 2]


async def test_a_revision_that_never_gets_ready_stops_the_rollout_and_the_old_one_serves_on(scene: Scene) -> None:
    scene.kubelet.script("m-2-*", IMAGE_PULL)
    rollout = {"progressDeadlineSeconds": 2, "drainTimeoutSeconds": 0}
    await scene.operator()
    await scene.apply(replicas=2, rollout=rollout)
    await scene.until_ready()

    async with scene.history() as moments:
        await scene.apply(replicas=2, rollout=rollout, engine={"image": "no/such:image"})
        seen = await scene.until_condition("Progressing", "RolloutStalled", "False")
        assert "revision 1 goes on serving" in seen["message"]
        assert (await scene.condition("Degraded"))["reason"] == "ImagePullBackOff"
        assert fewest(moments) == 2

    await scene.delete(POD, "m-1-0")
    await scene.until(lambda: serve(scene, [1, 1]), "the lost one comes back as it was")
    assert (await scene.condition("Progressing"))["reason"] == "RolloutStalled"

    await scene.apply(replicas=2, rollout=rollout)
    await scene.until_ready()
    assert await scene.revisions_of_pods() == [1, 1]
    assert len(await scene.listed(REVISION)) == 2

    scene.kubelet.script("m-2-*", READY)  # the image is there now
    await scene.apply(replicas=2, rollout=rollout, engine={"image": "no/such:image"})
    await scene.until(lambda: serve(scene, [2, 2]), "the revision is tried again")


async def serve(scene: Scene, revisions: list[int]) -> bool:
    ready = [pod for pod in await scene.pods() if ("Ready", "True") in _conditions(pod)]
    return sorted(int(pod["metadata"]["labels"]["dpvllm.io/revision"]) for pod in ready) == revisions


def _conditions(pod: dict[str, object]) -> set[tuple[str, str]]:
    status = pod["status"]
    assert isinstance(status, dict)
    return {(one["type"], one["status"]) for one in status.get("conditions", ())}
