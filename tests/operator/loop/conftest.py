"""What tests of the whole operator share: each has a namespace, nodes and operators of its own."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from cluster.given import AnyCluster
from stage import Scene, Stage


@pytest.fixture(scope="session")
def stage(dpmodels: AnyCluster, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(dpmodels, tmp_path_factory.mktemp("scenes"))


@pytest_asyncio.fixture
async def scene(stage: Stage) -> AsyncIterator[Scene]:
    """A namespace with one node of 16 GPUs."""
    async with stage.scene() as scene:
        yield scene
