"""Two scripted engines and a gateway before them, shared by the tests of a file; each test sets its own scripts."""

from collections.abc import Iterator

import pytest
import scripted
from scripted import Engines


@pytest.fixture(scope="module")
def both_engines() -> Iterator[Engines]:
    with scripted.engine() as first, scripted.engine() as second:
        yield first, second


@pytest.fixture
def engines(both_engines: Engines) -> Engines:
    for engine in both_engines:
        engine.script = scripted.FINE
        engine.asked.clear()
        engine.connections = 0
    return both_engines


@pytest.fixture(scope="module")
def url(both_engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the gateway listens."""
    with scripted.gateway(tmp_path_factory.mktemp("gateway"), both_engines) as program:
        yield program.url
