"""One Slurm for all tests here."""

from collections.abc import Iterator

import pytest
from slurm.bed import Bed, slurm


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    with slurm() as running:
        yield running
