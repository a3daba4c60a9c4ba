"""The gateway's and the simulated engine's images, under the restrictions that a cluster puts on them."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

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
LOOKUP_SECONDS = 10.0
CERTIFICATE = (
    "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout /tmp/key -out /tmp/certificate 2>&1"
)


@dataclass(frozen=True, slots=True)
class Front:
    """A gateway before two simulated engines, each in a container of its own."""

    gateway: Container
    sims: tuple[Container, Container]


@contextlib.contextmanager
def front(docker: Engine) -> Iterator[Front]:
    """The engines are called sim-0 and sim-1 on a network that reaches nothing else."""
    replicas = ("--replica", "http://sim-0:8000", "--replica", "http://sim-1:8000")
    with network(docker) as name, contextlib.ExitStack() as stack:
        options = (*RESTRICTED, f"--network={name}")
        sims = [
            stack.enter_context(running(docker, tag("sim"), MODEL, options=(*options, f"--network-alias=sim-{i}")))
            for i in range(2)
        ]
        gateway = stack.enter_context(running(docker, tag("gateway"), *replicas, options=options))
        for container in (*sims, gateway):
            container.await_answer()
        yield Front(gateway, (sims[0], sims[1]))


def test_a_gateway_stands_before_engines_in_other_containers(docker: Engine) -> None:
    with front(docker) as all_of_it:
        all_of_it.gateway.await_healthy()
        all_of_it.sims[0].await_healthy()
        with all_of_it.gateway.client() as client:
            assert len(answered_by(client, requests=8)) == 2
            assert len(streamed_chat(client)) > 1
        assert all_of_it.gateway.stop() == 0, all_of_it.gateway.logs()
        assert all_of_it.sims[0].stop() == 0, all_of_it.sims[0].logs()


def test_a_container_that_is_gone_with_its_name_takes_no_other_with_it(docker: Engine) -> None:
    """A name that is gone is looked up for 10 s in vain where no other name server can be reached."""
    with front(docker) as all_of_it, all_of_it.gateway.client() as client:
        docker.run("kill", "--signal=KILL", all_of_it.sims[0].id)
        end = time.monotonic() + 2 * LOOKUP_SECONDS
        while time.monotonic() < end:
            assert len(streamed_chat(client)) > 1


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
