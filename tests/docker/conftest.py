"""What tests of the images share."""

from collections.abc import Iterator

import pytest
from docker.containers import MODEL, Container, running
from docker.engine import Engine, given
from docker.images import tag


@pytest.fixture(scope="session")
def docker() -> Engine:
    """The Docker engine in which the images were built."""
    return given()


@pytest.fixture(scope="module")
def serve(docker: Engine) -> Iterator[Container]:
    """Four simulated engines behind one endpoint, ready, for tests that leave them as they are."""
    words = (MODEL, "--engine", "sim", "-dp", "4")
    with running(docker, tag("dp-vllm"), *words, options=("--health-interval=1s",)) as container:
        container.await_answer()
        yield container
