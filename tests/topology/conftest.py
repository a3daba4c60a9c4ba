"""What the tests of this directory share."""

from pathlib import Path

import pytest
from topology import stand_in_driver
from topology.stand_in_driver import Driver


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in_driver.install(tmp_path_factory.mktemp("driver")).directory / "libnvidia-ml.so.1"


@pytest.fixture
def driver(library: Path, tmp_path: Path) -> Driver:
    """A driver that says nothing yet."""
    (tmp_path / library.name).symlink_to(library)
    return Driver(tmp_path)
