"""An operator that is killed at a write, before or after it happened: the next one goes on, and does nothing twice."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from meddler import Asked, Fate
from stage import Scene, Stage

from dp_vllm_operator.cluster import MODEL, POD

AT_ONCE = 6
MOST_WRITES = 80

Spec = dict[str, object]


@dataclass(slots=True)
class Killer:
    """Kills the operator at a write, and lets the next one live."""

    scene: Scene
    fate: Fate
    at: int
    """At which write, counted from 1."""
    every: bool = False
    """The next ones die too: each at the write with this number of its own."""
    seen: int = 0
    killed: int = 0
    dead: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.scene.meddler.fate = self._decide

    def _decide(self, asked: Asked) -> Fate:
        if self.dead.is_set():
            return Fate.LOST
        if not asked.writes or "/leases" in asked.path:
            return Fate.PASS
        self.seen += 1
        if self.seen != self.at:
            return Fate.PASS
        self.scene.running[-1].kill()
        self.dead.set()
        self.killed += 1
        return self.fate

    async def replace(self) -> None:
        """Start another operator whenever one has ended: by us, or because it lost its Lease on a busy machine."""
        while True:
            while self.scene.running[-1].alive:
                await asyncio.sleep(0.02)
            if self.every:
                self.seen = 0
            self.dead.clear()
            await self.scene.operator(ready=False)


async def lived(killer: Killer, flow: Callable[[Scene], Awaitable[None]]) -> None:
    """A flow, while the killer is about."""
    await killer.scene.operator(ready=False)
    async with asyncio.TaskGroup() as group:
        replacing = group.create_task(killer.replace())
        await flow(killer.scene)
        replacing.cancel()


async def stands(scene: Scene, *, revision: int, replicas: int) -> None:
    """Everything is there, once, and nothing else."""
    children = await scene.children()
    assert sorted(name for name in children if not name.startswith("pods/")) == [
        "configmaps/m-engine-life",
        *(f"controllerrevisions/m-{number}" for number in range(1, revision + 1)),
        "deployments/m-gateway",
        "networkpolicies/m-replicas",
        "poddisruptionbudgets/m-gateway",
        "poddisruptionbudgets/m-replicas",
        "rolebindings/m-gateway",
        "serviceaccounts/m-gateway",
        "services/m",
    ]
    assert await scene.revisions_of_pods() == [revision] * replicas
    uid = (await scene.get(MODEL, "m"))["metadata"]["uid"]
    assert all(body["metadata"]["ownerReferences"][0]["uid"] == uid for body in children.values())


async def create(scene: Scene) -> None:
    async with scene.history() as moments:
        await scene.apply(replicas=2)
        await scene.until_ready(seconds=90)
    assert max(len(moment.live) for moment in moments) == 2
    await stands(scene, revision=1, replicas=2)


async def scale(scene: Scene, replicas: int) -> None:
    async with scene.history() as moments:
        await scene.scale(replicas)
        await scene.until_ready(replicas=replicas, seconds=90)
    counts = [len(moment.live) for moment in moments]
    assert counts in (sorted(counts), sorted(counts, reverse=True)), "none was made or ended for nothing"
    await stands(scene, revision=1, replicas=replicas)


async def scale_up(scene: Scene) -> None:
    await scale(scene, 4)


async def scale_down(scene: Scene) -> None:
    await scale(scene, 1)


async def roll(scene: Scene) -> None:
    async with scene.history() as moments:
        await scene.apply(replicas=2, engine={"args": ["--seed=1"]})
        await scene.until_ready(seconds=90)
    assert max(len(moment.live) for moment in moments) == 3
    assert min(len(moment.ready) for moment in moments) == 2
    await stands(scene, revision=2, replicas=2)


FLOWS = {flow.__name__: flow for flow in (create, scale_up, scale_down, roll)}


async def prepared(scene: Scene, flow: str) -> None:
    """What a flow begins with: nothing, or a model of two replicas."""
    if flow != "create":
        operator = await scene.operator()
        await scene.apply(replicas=2)
        await scene.until_ready(seconds=90)
        operator.kill()


@pytest.mark.timeout(300)
@pytest.mark.exhaustive
@pytest.mark.parametrize("flow", ["create", "roll"])
async def test_no_operator_lives_for_longer_than_one_write(scene: Scene, flow: str) -> None:
    await prepared(scene, flow)
    killer = Killer(scene, Fate.UNANSWERED, 1, every=True)
    await lived(killer, FLOWS[flow])
    assert MOST_WRITES > killer.killed > 5


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fate", [Fate.LOST, Fate.UNANSWERED])
@pytest.mark.parametrize("flow", FLOWS)
async def test_killed_at_each_write_in_turn(stage: Stage, flow: str, fate: Fate) -> None:
    places = asyncio.Semaphore(AT_ONCE)

    async def run(number: int) -> bool:
        """Whether there was such a write."""
        async with places, stage.scene() as scene:
            await prepared(scene, flow)
            killer = Killer(scene, fate, number)
            await lived(killer, FLOWS[flow])
            return killer.killed == 1

    first, killed = 1, [True]
    while all(killed):
        killed = await asyncio.gather(*(run(number) for number in range(first, first + AT_ONCE)))
        first += AT_ONCE
    assert AT_ONCE < first < MOST_WRITES


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fate", [Fate.LOST, Fate.UNANSWERED])
async def test_killed_at_each_write_and_the_model_is_deleted_before_the_next_one_comes(
    stage: Stage, fate: Fate
) -> None:
    places = asyncio.Semaphore(AT_ONCE)

    async def run(number: int) -> None:
        async with places, stage.scene() as scene:
            killer = Killer(scene, fate, number)
            await scene.operator(ready=False)
            await scene.apply(replicas=2)
            await asyncio.wait_for(killer.dead.wait(), 60)
            await scene.delete(MODEL, "m")
            scene.meddler.fate = lambda asked: Fate.PASS
            await scene.operator()
            await scene.until(lambda: _nothing_left(scene), "all is gone", seconds=90)

    await asyncio.gather(*(run(number) for number in range(1, 14)))


async def _nothing_left(scene: Scene) -> bool:
    return not await scene.children() and not await scene.listed(POD)
