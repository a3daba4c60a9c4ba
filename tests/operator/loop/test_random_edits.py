"""Random walks: whatever edits follow each other, the cluster becomes what the spec says, and goes back again."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stage import Scene, Stage

from dp_vllm import names
from dp_vllm_operator.cluster import MODEL, REVISION
from dp_vllm_operator.model import Model
from dp_vllm_operator.render.children import children, differs
from dp_vllm_operator.render.contained import contains
from dp_vllm_operator.settings import Settings

pytestmark = pytest.mark.timeout(900)

Spec = dict[str, Any]

START: Spec = {"replicas": 1}
TOLD = Settings(engine_image="engine:1", gateway_image="gateway:1", identity="")

EDITS = st.one_of(
    st.integers(0, 3).map(lambda count: {"replicas": count}),
    st.sampled_from([[], ["--seed=1"], ["--seed=2", "--enforce-eager"]]).map(lambda args: {"engine": {"args": args}}),
    st.sampled_from(["8Gi", "1Gi"]).map(lambda size: {"engine": {"shmSize": size}}),
    st.integers(1, 2).map(lambda size: {"tensorParallelSize": size}),
    st.sampled_from(["Surge", "Drain", "Auto"]).map(
        lambda strategy: {"rollout": {"strategy": strategy, "drainTimeoutSeconds": 0}}
    ),
    st.sampled_from(["round-robin", "least-load"]).map(lambda policy: {"gateway": {"policy": policy}}),
    st.integers(1, 3).map(lambda count: {"gateway": {"replicas": count}}),
    st.integers(80, 83).map(lambda port: {"gateway": {"service": {"port": port}}}),
    st.sampled_from(["a", "b"]).map(lambda label: {"template": {"metadata": {"labels": {"team": label}}}}),
    st.just({"servedModelName": "other"}),
    st.just({"apiKeySecretRef": {"name": "keys"}}),
)
"""Each replaces the fields that it names."""


async def stands_as_said(scene: Scene) -> None:
    """Everything is as the spec says it, and nothing else is there."""
    model = Model.of(await scene.get(MODEL, "m"))
    wanted = {f"{child.plural}/{child.name}": child for child in children(model, TOLD)}
    present = await scene.children()
    own = {name for name in present if name.partition("/")[0] in ("pods", REVISION.plural)}
    assert present.keys() - own == wanted.keys()
    assert [name for name, child in wanted.items() if differs(present[name], child)] == []

    target = model.status["revision"]
    template = present[f"{REVISION.plural}/m-{target}"]["data"]["template"]
    pods = await scene.pods()
    assert len(pods) == model.spec.replicas
    assert {pod["metadata"]["labels"][names.REVISION_LABEL] for pod in pods} <= {str(target)}
    assert all(contains(pod["spec"]["containers"], template["spec"]["containers"], "containers") for pod in pods)
    resources = [pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for pod in pods]
    assert set(resources) <= {str(model.spec.accelerators)}


async def shape(scene: Scene) -> str:
    """What can be seen of a model that stands still, but for numbers that count up."""
    present = await scene.children()
    children_of = {name: body["metadata"]["annotations"]["dpvllm.io/applied"] for name, body in present.items()
                   if name.partition("/")[0] not in ("pods", REVISION.plural)}  # fmt: skip
    pods = [[one["name"], one["args"]] for pod in await scene.pods() for one in pod["spec"]["containers"]]
    return json.dumps([children_of, pods, await scene.revisions_of_pods()], sort_keys=True)


async def walk(stage: Stage, edits: list[Spec], *, patiently: list[bool]) -> None:
    async with stage.scene() as scene:
        await scene.operator("--engine-image", "engine:1", "--gateway-image", "gateway:1", "--resync-seconds", "30")
        spec = START
        await scene.apply(**spec)
        await scene.until_ready(seconds=60)
        await stands_as_said(scene)
        before = await shape(scene)
        for edit, waits in zip(edits, patiently, strict=True):
            spec = spec | edit
            await scene.apply(**spec)
            if waits:
                await scene.until_ready(seconds=90)
                await stands_as_said(scene)
        await scene.apply(**START)
        await scene.until_ready(seconds=90)
        await stands_as_said(scene)
        assert await shape(scene) == before
        assert "Traceback" not in scene.running[0].output()


def walks(edits: int) -> Any:
    return st.integers(1, edits).flatmap(
        lambda count: st.tuples(
            st.lists(EDITS, min_size=count, max_size=count), st.lists(st.booleans(), min_size=count, max_size=count)
        )
    )


QUIET = list(HealthCheck)


@pytest.mark.exhaustive
@settings(max_examples=2, suppress_health_check=QUIET, database=None)
@given(one=walks(4))
def test_a_walk(stage: Stage, one: tuple[list[Spec], list[bool]]) -> None:
    asyncio.run(walk(stage, one[0], patiently=one[1]))


@pytest.mark.exhaustive
@settings(max_examples=8, suppress_health_check=QUIET, database=None)
@given(several=st.lists(walks(8), min_size=4, max_size=4))
def test_many_walks(stage: Stage, several: list[tuple[list[Spec], list[bool]]]) -> None:
    async def all_of_them() -> None:
        await asyncio.gather(*(walk(stage, edits, patiently=waits) for edits, waits in several))

    asyncio.run(all_of_them())
