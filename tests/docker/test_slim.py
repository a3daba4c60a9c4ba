"""The gateway's and the simulated engine's images, under the restrictions that a cluster puts on them."""

import contextlib
from collections.abc import Iterator

import pytest
from docker.containers import MODEL, Container, answered_by, network, running, streamed_chat
from docker.engine import Engine
from docker.images import tag

pytestmark = pytest.mark.docker

RESTRICTED = (
    "--read-only",
    "--user=12345:0",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--health-interval=1s",
)
CERTIFICATE = (
    "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout /tmp/key -out /tmp/certificate 2>&1"
)


@contextlib.contextmanager
def sims(docker: Engine, on: str) -> Iterator[tuple[Container, Container]]:
    """Two simulated engines on a network, called sim-0 and sim-1."""
    options = [(*RESTRICTED, f"--network={on}", f"--network-alias=sim-{i}") for i in range(2)]
    with (
        running(docker, tag("sim"), MODEL, options=options[0]) as first,
        running(docker, tag("sim"), MODEL, options=options[1]) as second,
    ):
        first.await_answer()
        second.await_answer()
        yield first, second


def test_a_gateway_stands_before_engines_in_other_containers(docker: Engine) -> None:
    replicas = ("--replica", "http://sim-0:8000", "--replica", "http://sim-1:8000")
    with (
        network(docker) as name,
        sims(docker, name) as (first, second),
        running(docker, tag("gateway"), *replicas, options=(*RESTRICTED, f"--network={name}")) as gateway,
    ):
        gateway.await_answer("/health")
        gateway.await_healthy()
        second.await_healthy()
        with gateway.client() as client:
            assert len(answered_by(client, requests=8)) == 2
            assert len(streamed_chat(client)) > 1

            docker.run("kill", "--signal=KILL", first.id)
            assert all(len(streamed_chat(client)) > 1 for _ in range(4))

        assert gateway.stop() == 0, gateway.logs()
        assert second.stop() == 0, second.logs()


def test_the_simulated_engine_has_a_model_by_default(docker: Engine) -> None:
    with running(docker, tag("sim")) as sim:
        sim.await_answer()
        with sim.client() as client:
            assert [model.id for model in client.models.list()] == [MODEL]


def test_the_health_check_asks_the_port_that_was_chosen(docker: Engine) -> None:
    with running(docker, tag("sim"), MODEL, "--port", "9000", options=RESTRICTED) as sim:
        sim.await_healthy()


def test_the_health_check_speaks_tls(docker: Engine) -> None:
    tls = "--ssl-keyfile /tmp/key --ssl-certfile /tmp/certificate"
    gateway = f"exec python3 -I -m dp_vllm_gateway --replica http://127.0.0.1:1 {tls}"
    options = (*RESTRICTED, "--entrypoint=sh")
    with running(docker, tag("gateway"), "-c", f"{CERTIFICATE} && {gateway}", options=options) as container:
        container.await_healthy()


def test_a_gateway_without_replicas_is_told_what_it_lacks(docker: Engine) -> None:
    done = docker.ended("run", "--rm", *RESTRICTED, tag("gateway"))
    assert done.returncode == 2
    assert "--replica" in done.stderr
    assert "Traceback" not in done.stderr
