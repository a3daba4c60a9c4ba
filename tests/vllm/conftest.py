"""What tests before the real engine share."""

from collections.abc import Iterator

import programs
import pytest
import real_engine


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[programs.Program]:
    """One engine with default flags, for tests that leave it as it was."""
    with real_engine.engine(tmp_path_factory.mktemp("engine")) as program:
        yield program
