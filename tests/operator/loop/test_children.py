"""What a model has beside its replicas: put back if somebody changes it, left alone if it is somebody else's."""

import asyncio
import json

import pytest
from stage import Scene

from dp_vllm.kubernetes_api import Object
from dp_vllm_operator.cluster import Kind

pytestmark = pytest.mark.timeout(180)

SERVICES = Kind("v1", "services")
CONFIG_MAPS = Kind("v1", "configmaps")
DEPLOYMENTS = Kind("apps/v1", "deployments")
BINDINGS = Kind("rbac.authorization.k8s.io/v1", "rolebindings")
JOBS = Kind("batch/v1", "jobs")


async def raw(scene: Scene, kind: Kind, name: str) -> bytes:
    return await scene.api.text("GET", kind.path(scene.namespace, name))


async def test_what_is_somebody_elses_is_left_alone_byte_by_byte_and_taken_up_once_it_is_gone(scene: Scene) -> None:
    ports = [{"port": 80, "targetPort": 1234}]
    service: Object = {"metadata": {"name": "m"}, "spec": {"selector": {"app": "theirs"}, "ports": ports}}
    await scene.create(SERVICES, service)
    await scene.create(CONFIG_MAPS, {"metadata": {"name": "m-engine-life"}, "data": {"theirs": "yes"}})
    before = [await raw(scene, SERVICES, "m"), await raw(scene, CONFIG_MAPS, "m-engine-life")]

    await scene.operator("--resync-seconds", "2")
    await scene.apply(replicas=1)
    seen = await scene.until_condition("Degraded", "NameConflict", "True")
    assert "configmaps/m-engine-life" in seen["message"]
    assert "services/m" in seen["message"]
    assert (await scene.condition("Ready"))["status"] == "False"
    await scene.until(lambda: _has_pods(scene, 1), "everything else is made")
    await scene.apply(replicas=2)
    await scene.until(lambda: _has_pods(scene, 2), "the model is looked after")

    assert [await raw(scene, SERVICES, "m"), await raw(scene, CONFIG_MAPS, "m-engine-life")] == before
    await scene.delete(SERVICES, "m")
    await scene.delete(CONFIG_MAPS, "m-engine-life")
    await scene.until_ready()


async def _has_pods(scene: Scene, count: int) -> bool:
    return len(await scene.pods()) == count


async def test_a_child_that_is_deleted_or_changed_is_put_back_as_it_was(scene: Scene) -> None:
    await scene.operator()
    await scene.apply(replicas=1)
    await scene.until_ready()
    before = {name: body for name, body in (await scene.children()).items() if "pods" not in name}

    for name, body in before.items():
        if not name.startswith("controllerrevisions"):
            kind = Kind(body.get("apiVersion", ""), name.partition("/")[0])
            await scene.delete(_kind(kind.plural), name.partition("/")[2])
    await scene.until(lambda: _is_again(scene, before), "all are there again")

    await scene.patch(SERVICES, "m", {"spec": {"selector": {"added": "by-hand"}}})
    await scene.patch(DEPLOYMENTS, "m-gateway", {"spec": {"strategy": {"rollingUpdate": {"maxSurge": 2}}}})
    await scene.patch(CONFIG_MAPS, "m-engine-life", {"data": {"engine_life.py": "changed"}})
    await scene.patch(BINDINGS, "m-gateway", {"metadata": {"labels": {"dpvllm.io/model": None}}})
    await scene.until(lambda: _is_again(scene, before), "all are as they were")
    await scene.until_ready()


def _kind(plural: str) -> Kind:
    from dp_vllm_operator.cluster import CHILDREN

    return next(kind for kind in CHILDREN if kind.plural == plural)


async def _is_again(scene: Scene, before: dict[str, Object]) -> bool:
    now = await scene.children()
    return all(name in now and _content(now[name]) == _content(body) for name, body in before.items())


def _content(body: Object) -> Object:
    """What the operator says of it."""
    spec = {key: value for key, value in body.get("spec", {}).items() if not key.startswith("clusterIP")}
    content = {key: body.get(key) for key in ("data", "roleRef", "subjects")}
    annotations = {k: v for k, v in body["metadata"].get("annotations", {}).items() if k.startswith("dpvllm.io/")}
    return {"labels": body["metadata"]["labels"], "annotations": annotations, "spec": spec, **content}


@pytest.mark.exhaustive
async def test_a_number_of_gateways_that_the_spec_does_not_say_is_left_to_an_autoscaler(scene: Scene) -> None:
    await scene.operator("--resync-seconds", "2")
    await scene.apply(replicas=1)
    await scene.until_ready()
    assert await _gateways(scene) == 2

    await scene.patch(DEPLOYMENTS, "m-gateway", {"spec": {"replicas": 5}}, subresource="scale")
    await scene.apply(replicas=1, gateway={"policy": "round-robin"})
    await scene.until(lambda: _gateway_says(scene, "round-robin"), "the policy is told")
    await scene.until_ready()
    assert await _gateways(scene) == 5

    await scene.apply(replicas=1, gateway={"replicas": 3})
    await scene.until(lambda: _has_gateways(scene, 3), "the number is the spec's")


async def _gateways(scene: Scene) -> int:
    return int((await scene.get(DEPLOYMENTS, "m-gateway"))["spec"]["replicas"])


async def _has_gateways(scene: Scene, count: int) -> bool:
    return await _gateways(scene) == count


async def _gateway_says(scene: Scene, word: str) -> bool:
    return word in json.dumps((await scene.get(DEPLOYMENTS, "m-gateway"))["spec"])


@pytest.mark.exhaustive
async def test_an_upgrade_restarts_no_replica_and_rolls_the_gateways_of_one_model_after_the_other(
    scene: Scene,
) -> None:
    models = ("a", "b", "c")
    operator = await scene.operator("--engine-image", "engine:1", "--gateway-image", "gateway:1")
    for name in models:
        await scene.apply(name, replicas=1)
    for name in models:
        await scene.until_ready(name, seconds=90)
    before = {pod["metadata"]["uid"] for name in models for pod in await scene.pods(name)}
    operator.end()
    rolling: list[int] = []

    async def watch() -> None:
        while True:
            deployments = [await scene.get(DEPLOYMENTS, f"{name}-gateway") for name in models]
            rolling.append(sum(_rolls(one) for one in deployments))
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    await scene.operator("--engine-image", "engine:2", "--gateway-image", "gateway:2", identity="next")
    for name in models:
        await scene.until(lambda name=name: _has_image(scene, name, "gateway:2"), "the gateway is the new one")  # type: ignore[misc]
        await scene.until_ready(name)
    watching.cancel()

    assert max(rolling) == 1
    assert {pod["metadata"]["uid"] for name in models for pod in await scene.pods(name)} == before
    await scene.scale(2, "a")
    await scene.until_ready("a")
    assert {pod["spec"]["containers"][0]["image"] for pod in await scene.pods("a")} == {"engine:1"}
    await scene.apply("d", replicas=1)
    await scene.until_ready("d")
    assert {pod["spec"]["containers"][0]["image"] for pod in await scene.pods("d")} == {"engine:2"}


def _rolls(deployment: Object) -> bool:
    status = deployment["status"]
    new = status.get("observedGeneration") == deployment["metadata"]["generation"]
    return not (new and status.get("updatedReplicas") == 2 and status.get("replicas") == 2)


async def _has_image(scene: Scene, name: str, image: str) -> bool:
    deployment = await scene.get(DEPLOYMENTS, f"{name}-gateway")
    containers = deployment["spec"]["template"]["spec"]["containers"]
    return containers[0]["image"] == image and not _rolls(deployment)


async def test_nothing_is_written_while_nothing_happens(scene: Scene) -> None:
    await scene.operator("--resync-seconds", "1")
    await scene.apply("m", replicas=2)
    claim = {"size": "1Gi", "storageClassName": await scene.volume("n-cache")}
    await scene.apply("n", replicas=1, cache={"claim": claim}, gateway={"replicas": 1})
    await scene.until_ready("m")
    await scene.until_ready("n")
    looks = len(_lists(scene))
    await scene.until(lambda: _looked(scene, looks + 2), "what was under way is done")

    looks, written = len(_lists(scene)), len(_written(scene))
    await scene.until(lambda: _looked(scene, looks + 5), "all is looked at five times more")
    assert _written(scene)[written:] == []


def _written(scene: Scene) -> list[str]:
    return [f"{one.method} {one.path}" for one in scene.meddler.writes if "/leases" not in one.path]


def _lists(scene: Scene) -> list[str]:
    return [one.path for one in scene.meddler.asked if one.path.endswith("/dpmodels") and not one.watches]


async def _looked(scene: Scene, times: int) -> bool:
    return len(_lists(scene)) >= times
