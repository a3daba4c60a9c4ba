"""A DPModel's life, with an operator that nobody disturbs."""

import time

import pytest
from kubelet import FAILED, READY
from stage import Scene

from dp_vllm_operator.backoff import FIRST_SECONDS
from dp_vllm_operator.cluster import MODEL, POD, Kind

pytestmark = pytest.mark.timeout(180)

CHILDREN = [
    "configmaps/m-engine-life",
    "controllerrevisions/m-1",
    "deployments/m-gateway",
    "networkpolicies/m-replicas",
    "poddisruptionbudgets/m-gateway",
    "poddisruptionbudgets/m-replicas",
    "pods/m-1-0",
    "pods/m-1-1",
    "rolebindings/m-gateway",
    "serviceaccounts/m-gateway",
    "services/m",
]
"""Of a model with two replicas."""


async def test_a_model_is_made_and_scaled_and_kubectl_sees_when_it_is_ready(scene: Scene) -> None:
    await scene.operator()
    await scene.apply(replicas=2)
    await scene.kubectl("wait", "dpm/m", "--for=condition=Ready", "--timeout=90s")
    assert sorted(await scene.children()) == CHILDREN

    for count, left in ((4, ["m-1-0", "m-1-1", "m-1-2", "m-1-3"]), (1, None), (0, [])):
        await scene.kubectl("scale", "dpm/m", f"--replicas={count}")
        await scene.until_ready(replicas=count)
        assert left in (None, await scene.pod_names())
    assert (await scene.condition("Ready"))["reason"] == "ScaledToZero"
    await scene.scale(2)
    await scene.until_ready(replicas=2)
    assert sorted(await scene.children()) == CHILDREN


async def test_a_deleted_model_takes_everything_with_it_at_once_and_its_name_is_free(scene: Scene) -> None:
    await scene.operator()
    await scene.apply(replicas=2)
    await scene.until_ready()
    before = {body["metadata"]["uid"] for body in (await scene.children()).values()}

    await scene.kubectl("delete", "dpm/m", "--timeout=5s")
    await scene.apply(replicas=2)  # at once: the old children may still be there

    await scene.until_ready()
    await scene.until(lambda: _nothing_of(scene, before), "all old children are gone")
    await scene.until_ready()
    assert len(await scene.children()) == len(CHILDREN)


async def _nothing_of(scene: Scene, uids: set[str]) -> bool:
    return not any(body["metadata"]["uid"] in uids for body in (await scene.children()).values())


@pytest.mark.exhaustive
async def test_a_model_that_is_deleted_while_no_operator_runs_is_gone_all_the_same(scene: Scene) -> None:
    operator = await scene.operator()
    await scene.apply(replicas=2)
    await scene.until_ready()

    operator.kill()
    await scene.kubectl("delete", "dpm/m", "--timeout=5s")

    await scene.until(lambda: _has_no_children(scene), "all children are gone", seconds=60)
    assert await scene.listed(POD) == []


async def _has_no_children(scene: Scene) -> bool:
    return not await scene.children() and not await scene.listed(POD)


async def test_orphaned_pods_are_not_adopted_but_told_of_with_the_gpus_that_they_hold(scene: Scene) -> None:
    await scene.operator()
    await scene.apply(replicas=2, tensorParallelSize=3)
    await scene.until_ready()
    before = {body["metadata"]["uid"] for body in (await scene.children()).values()}

    await scene.kubectl("delete", "dpm/m", "--cascade=orphan", "--timeout=60s")
    await scene.apply(replicas=2, tensorParallelSize=3)

    seen = await scene.until_condition("Degraded", "NameConflict", "True", seconds=60)
    assert "services/m" in seen["message"]
    await scene.until(lambda: _is_told(scene, "hold 6 nvidia.com/gpu: m-1-0, m-1-1"), "the pods are named")
    children = await scene.children()
    model = await scene.get(MODEL, "m")
    owned = {name for name, body in children.items() if body["metadata"].get("ownerReferences")}
    assert owned == {"controllerrevisions/m-2", "pods/m-2-2", "pods/m-2-3"}
    assert all(children[name]["metadata"]["ownerReferences"][0]["uid"] == model["metadata"]["uid"] for name in owned)
    assert before <= {body["metadata"]["uid"] for body in children.values()}

    for name in children.keys() - owned:
        plural, _, child = name.partition("/")
        await scene.kubectl("delete", plural, child, "--wait=false")
    await scene.until_ready(seconds=60)
    await scene.until(lambda: _stands(scene, "Degraded", "False"), "nobody is needed any more")


async def _is_told(scene: Scene, words: str) -> bool:
    return words in (await scene.condition("Degraded")).get("message", "")


async def test_one_replica_at_a_time_is_evicted_and_replaced(scene: Scene) -> None:
    await scene.operator()
    await scene.apply(replicas=2)
    await scene.until_ready()
    first, second = await scene.pod_names()

    await scene.until(lambda: _allows_one(scene), "the budget is known", seconds=60)
    assert [await scene.evict(first), await scene.evict(second)] == [201, 429]

    await scene.until_ready()
    assert second in await scene.pod_names()
    await scene.until(lambda: _allows_one(scene), "the next one may go")
    assert await scene.evict(second) == 201


async def _allows_one(scene: Scene) -> bool:
    budget = (await scene.children()).get("poddisruptionbudgets/m-replicas", {})
    return bool(budget.get("status", {}).get("disruptionsAllowed") == 1)


async def test_a_deleted_pod_is_replaced_at_once_and_dead_ones_after_a_while_that_grows(scene: Scene) -> None:
    await scene.operator()
    await scene.apply(replicas=2)
    await scene.until_ready()
    old = (await scene.get(POD, "m-1-0"))["metadata"]["uid"]
    await scene.kubectl("delete", "pod", "m-1-0", "--wait=false")
    await scene.until(lambda: _has_two_without(scene, old), "another is there", seconds=9)
    await scene.until_ready()

    scene.kubelet.script("m-1-*", FAILED)
    await scene.until(lambda: _has_none(scene), "the dead ones are gone")
    scene.kubelet.script("m-1-*", READY)
    began = time.monotonic()
    await scene.until(lambda: _stands(scene, "Ready", "False"), "the loss is told of")
    await scene.until_ready(seconds=60)
    assert time.monotonic() - began > FIRST_SECONDS / 2


async def _has_two_without(scene: Scene, uid: str) -> bool:
    uids = [pod["metadata"]["uid"] for pod in await scene.pods()]
    return len(uids) == 2 and uid not in uids


async def _stands(scene: Scene, kind: str, status: str) -> bool:
    return bool((await scene.condition(kind)).get("status") == status)


async def _has_none(scene: Scene) -> bool:
    return not await scene.pods()


@pytest.mark.exhaustive
async def test_a_model_that_is_to_be_left_alone_is_left_alone(scene: Scene) -> None:
    await scene.operator()
    await scene.apply(replicas=2)
    await scene.until_ready()

    await scene.annotate(reconcile="disabled")
    await scene.until_condition("Progressing", "Disabled")
    await scene.scale(3)
    await scene.delete(POD, "m-1-0")
    await scene.delete(Kind("v1", "services"), "m")
    await scene.until(lambda: _counts(scene, 1), "the loss is told of")
    assert await scene.pod_names() == ["m-1-1"]
    assert "services/m" not in await scene.children()

    await scene.annotate(reconcile=None)
    await scene.until_ready(replicas=3)
    assert "services/m" in await scene.children()


async def _counts(scene: Scene, replicas: int) -> bool:
    return bool((await scene.get(MODEL, "m"))["status"]["replicas"] == replicas)
