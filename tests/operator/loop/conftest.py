"""What tests of the whole operator share: each has a namespace, nodes and operators of its own."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from cluster.given import AnyCluster
from stage import Operators, Scene, Stage
from stage.operators import operators as started


@pytest.fixture(scope="session")
def operators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operators]:
    with started(tmp_path_factory.mktemp("operators")) as made:
        yield made


@pytest.fixture(scope="session")
def stage(dpmodels: AnyCluster, operators: Operators, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(dpmodels, operators, tmp_path_factory.mktemp("scenes"))


@pytest_asyncio.fixture
async def scene(stage: Stage) -> AsyncIterator[Scene]:
    """A namespace with one node of 16 GPUs."""
    async with stage.scene() as scene:
        yield scene
