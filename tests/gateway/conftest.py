"""Two scripted engines and a gateway before them, shared by the tests of a file; each test sets its own scripts."""

from collections.abc import Iterator

import programs
import pytest
import scripted
import wire
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
        engine.drop()
    return both_engines


@pytest.fixture(scope="module")
def shared(both_engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    directory = tmp_path_factory.mktemp("gateway")
    admin = directory / "admin.sock"
    with scripted.gateway(directory, both_engines, "--admin-socket", str(admin)) as program:
        yield program.url, f"unix:{admin}"


@pytest.fixture
def url(shared: tuple[str, str], engines: Engines) -> Iterator[str]:
    """Where the gateway listens. Whatever becomes of a test's requests, none is in flight after it."""
    url, admin = shared
    yield url
    programs.wait_until(lambda: not wire.in_flight(admin), "nothing is in flight")
