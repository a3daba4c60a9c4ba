"""The gateway's doors without a key: the admin socket, and the port for metrics."""

import contextlib
import json
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import programs
import pytest
import scripted
import wire
from ports import free_port
from scripted import STREAM, Engine, event, said
from watched import Gateway, Scrape, gateway

from dp_vllm import endpoints
from dp_vllm.endpoints import Endpoint, EndpointSet, State
from dp_vllm_gateway import admin


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def running(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Gateway]]:
    """An engine, and a gateway that wants a key on its endpoint."""
    flags = ("--api-key", "right", "--metrics-port", str(port), "--host", "127.0.0.1")
    with scripted.engine() as engine, gateway(tmp_path_factory.mktemp("gateway"), engine, flags=flags) as program:
        yield engine, program


def test_the_state_tells_what_is_known_of_each_replica(running: tuple[Engine, Gateway]) -> None:
    engine, program = running
    expected = {"state": "ready", "available": True, "healthy": True, "ejected": False, "message": ""}
    idle = {"in_flight": 0, "sequences": 0, "waiting_tokens": 0}
    replica = {"address": f"127.0.0.1:{engine.port}", **expected, **idle}
    assert program.state() == {"generation": 1, "in_flight": 0, "queued": 0, "replicas": {"0": replica}, "source": None}


def test_the_state_tells_what_is_in_flight(running: tuple[Engine, Gateway]) -> None:
    engine, program = running
    engine.script = scripted.saying(STREAM, event(said("a")))
    body = json.dumps({"model": "demo/model", "prompt": "hello", "stream": True, "n": 3}).encode()
    with wire.line(program.url) as client:
        client.send(wire.request("POST", "/v1/completions", body, {"authorization": "Bearer right"}))
        client.read_until(b'"a"')
        state = program.state()
    assert state["in_flight"] == state["replicas"]["0"]["in_flight"] == 1
    assert state["replicas"]["0"]["sequences"] == 3
    program.wait_until_idle()


def test_the_socket_answers_health_readiness_and_metrics(running: tuple[Engine, Gateway]) -> None:
    _, program = running
    assert wire.ask(program.admin, "GET", "/health").status == 200
    assert wire.ask(program.admin, "GET", "/ready").status == 200
    assert program.scrape().value("dp_vllm_replica_available", replica="0") == 1


def test_only_its_owner_may_open_the_socket(running: tuple[Engine, Gateway]) -> None:
    _, program = running
    status = Path(program.admin.removeprefix("unix:")).stat()
    assert stat.S_ISSOCK(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o600


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/models", 404), ("POST", "/state", 405)])
def test_what_the_socket_does_not_have_is_an_error_in_json(
    running: tuple[Engine, Gateway], method: str, path: str, status: int
) -> None:
    answer = wire.ask(running[1].admin, method, path)
    assert answer.status == status
    assert path in answer.error["message"]


def test_the_metrics_port_needs_no_key_and_has_nothing_else(running: tuple[Engine, Gateway], port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    assert Scrape(wire.ask(url, "GET", "/metrics").body).value("dp_vllm_replica_available") == 1
    assert wire.ask(url, "GET", "/health").status == 200
    assert wire.ask(url, "GET", "/ready").status == 200
    for path in ("/state", "/v1/models", "/"):
        assert wire.ask(url, "GET", path).status == 404


def test_neither_door_reads_a_body_or_can_be_crowded(running: tuple[Engine, Gateway], port: int) -> None:
    def has_room() -> bool:
        return wire.ask(url, "GET", "/health").status == 200

    for url in (f"http://127.0.0.1:{port}", running[1].admin):
        for path, status in (("/metrics", 200), ("/state", 404 if "http" in url else 200), ("/%6detrics", 404)):
            with wire.line(url) as line:
                line.send(wire.request("GET", path, headers={"content-length": "1000000"}))
                assert line.answer().status == status
        assert wire.ask(url, "POST", "/metrics", b"x").status == 405
        with contextlib.ExitStack() as stack:
            lines = [stack.enter_context(wire.line(url)) for _ in range(2 * admin.MOST_CONNECTIONS)]
            for line in lines:
                line.send(wire.request("GET", "/health"))
            assert {line.answer().status for line in lines} == {200, 503}
        programs.wait_until(has_room, "there is room again")


def test_a_replica_that_drains_or_is_down_says_so(tmp_path: Path) -> None:
    file, admin = tmp_path / "endpoints.json", tmp_path / "admin.sock"
    with scripted.engine() as engine:
        address = f"127.0.0.1:{engine.port}"
        draining = Endpoint("0", address, "a", State.DRAINING)
        down = Endpoint("1", "unix:/nowhere", "b", State.DOWN, "it ended with 3")
        endpoints.write(file, EndpointSet(5, (draining, down)))
        with programs.gateway(tmp_path, "--endpoints-file", str(file), "--admin-socket", str(admin)):
            state = wire.ask(f"unix:{admin}", "GET", "/state").json()
            health = wire.ask(f"unix:{admin}", "GET", "/health")
    assert state["generation"] == 5
    assert state["replicas"]["0"]["state"] == "draining" and not state["replicas"]["0"]["available"]
    assert state["replicas"]["1"]["message"] == "it ended with 3"
    assert health.status == 503


def test_the_socket_shows_what_is_still_in_flight_while_the_gateway_ends(tmp_path: Path) -> None:
    admin = tmp_path / "admin.sock"
    flags = ("--admin-socket", str(admin), "--shutdown-timeout", "60")
    body = json.dumps({"model": "demo/model", "prompt": "hello", "stream": True}).encode()
    with (
        scripted.engine(scripted.saying(STREAM, event(said("a")))) as engine,
        programs.gateway(tmp_path, "--replica", engine.url, *flags) as program,
    ):
        with wire.line(program.url) as client:
            client.send(wire.request("POST", "/v1/completions", body))
            client.read_until(b'"a"')
            program.signal(signal.SIGTERM)
            programs.wait_until(lambda: wire.ask(f"unix:{admin}", "GET", "/ready").status == 503, "it ends")
            assert wire.ask(f"unix:{admin}", "GET", "/state").json()["in_flight"] == 1
        assert program.wait() == 0
    assert not admin.exists()


def test_a_socket_that_a_killed_gateway_left_is_replaced(tmp_path: Path) -> None:
    admin = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(admin))
    with scripted.engine() as engine, gateway(tmp_path, engine) as program:
        assert program.state()["in_flight"] == 0


def refusal(directory: Path, *flags: str) -> str:
    """What a gateway says that cannot start."""
    argv = programs.python("-m", "dp_vllm_gateway", "--replica", "http://127.0.0.1:9", *flags)
    with programs.running([*argv, "--port", str(free_port())], directory / "log") as program:
        assert program.wait() == 1
        return program.output()


def test_a_socket_that_somebody_listens_on_is_not_taken(tmp_path: Path) -> None:
    admin = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(admin))
        other.listen()
        said = refusal(tmp_path, "--admin-socket", str(admin))
        assert admin.exists()
    assert (
        said == f"dp-vllm gateway: --admin-socket: another process listens on {admin}; end it, or choose another path\n"
    )


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("data")
    said = refusal(tmp_path, "--admin-socket", str(precious))
    assert f"--admin-socket: {precious} exists and is no socket" in said
    assert precious.read_text() == "data"


def test_a_metrics_port_that_is_taken_is_an_error_that_names_the_flag(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refusal(tmp_path, "--host", "127.0.0.1", "--metrics-port", str(port))
    assert said == f"dp-vllm gateway: --metrics-port: cannot listen on 127.0.0.1:{port}: Address already in use\n"
