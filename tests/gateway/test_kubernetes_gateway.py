"""A gateway whose replicas are pods: which of them get requests, and what clients and Kubernetes are told meanwhile."""

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import programs
import pytest
import scripted
import watched
import wire
from ports import free_port
from replica_pods import PORT, address, container, pod, running
from scripted import END, STREAM, Asked, Engine, Peer, event, said
from scripted_api import ApiServer, api_server, refusing

MODEL = ("--kubernetes-model", "m")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with api_server() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
        for variable in ("KUBERNETES_SERVICE_HOST", "POD_NAMESPACE"):
            monkeypatch.delenv(variable, raising=False)
        yield server


@pytest.fixture
def engines() -> Iterator[tuple[Engine, Engine]]:
    with scripted.engine(host=address(), port=PORT) as one, scripted.engine(host=address(), port=PORT) as other:
        yield one, other


def pods(engines: tuple[Engine, ...], **given: Any) -> list[dict[str, Any]]:
    """A pod for each engine."""
    return [pod(f"m-1-{number}", running(engine.host, **given)) for number, engine in enumerate(engines)]


def gateway(directory: Path, *flags: str) -> contextlib.AbstractContextManager[watched.Gateway]:
    return watched.gateway(directory, flags=(*MODEL, *flags))


def replicas(gateway: watched.Gateway) -> dict[str, tuple[str, bool]]:
    """State and availability of each replica."""
    return {name: (each["state"], each["available"]) for name, each in gateway.state()["replicas"].items()}


def becomes(gateway: watched.Gateway, **expected: tuple[str, bool]) -> None:
    """Wait until the replicas are so; `m_1_0` is m-1-0."""
    wanted = {name.replace("_", "-"): state for name, state in expected.items()}
    programs.wait_until(lambda: replicas(gateway) == wanted, f"{wanted}; now {replicas(gateway)}")


def answerers(url: str, count: int = 10) -> set[str | None]:
    """Who answers so many requests."""
    answers = [wire.complete(url) for _ in range(count)]
    assert {answer.status for answer in answers} == {200}
    return {answer.replica for answer in answers}


class Held:
    """A script that begins a stream and ends it when it is told to."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, peer: Peer, asked: Asked) -> None:
        peer.send(STREAM, event(said("one")))
        self.asked.set()
        if self.go_on.wait(programs.START_SECONDS):
            with contextlib.suppress(OSError):
                peer.send(event(said("two")), event(b"[DONE]"), END)


@contextlib.contextmanager
def stream(url: str, engine: Engine) -> Iterator[tuple[Held, wire.Line]]:
    """A stream that has begun at this engine."""
    held, before = Held(), engine.script
    engine.script = held
    with wire.line(url) as line:
        while not held.asked.is_set():
            line.send(wire.request("POST", "/v1/completions", b'{"prompt": "x", "stream": true}'))
            if not held.asked.wait(1):
                line.answer()
        engine.script = before
        yield held, line
        held.go_on.set()


# which pods get requests


def test_requests_go_to_the_pods_that_are_ready(
    server: ApiServer, engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    """Also to those with addresses of IPv6."""
    one, other = pods(engines)
    other["status"]["podIP"] = f"::ffff:{engines[1].host}"
    server.put(one)
    with gateway(tmp_path) as program:
        assert answerers(program.url) == {"m-1-0"}
        server.put(other)
        becomes(program, m_1_0=("ready", True), m_1_1=("ready", True))
        assert answerers(program.url) == {"m-1-0", "m-1-1"}


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (lambda one: {**one, "metadata": {**one["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}, "draining"),
        (lambda one: {**one, "status": {**one["status"], "phase": "Failed"}}, "down"),
        (lambda one: {**one, "status": {**one["status"], "phase": "Succeeded"}}, "down"),
        (lambda one: pod("m-1-0", running(one["status"]["podIP"], ready=False)), "not ready"),
        (
            lambda one: {**one, "status": {**one["status"], "containerStatuses": [container({"terminated": {}})]}},
            "down",
        ),
    ],
    ids=["terminating", "failed", "succeeded", "not ready", "ended"],
)
def test_a_pod_that_is_no_longer_ready_gets_nothing_new_but_its_stream_ends_well(
    server: ApiServer, engines: tuple[Engine, Engine], tmp_path: Path, change: Any, state: str
) -> None:
    one, other = pods(engines)
    server.put(one, other)
    with gateway(tmp_path) as program, stream(program.url, engines[0]) as (held, line):
        changed = change(one)
        if "containerStatuses" in changed["status"]:  # the same container as before
            changed["status"]["containerStatuses"][0]["containerID"] = "test://0"
        server.put(changed)
        becomes(program, m_1_0=(state, False), m_1_1=("ready", True))
        assert answerers(program.url) == {"m-1-1"}
        held.go_on.set()
        answer = line.answer()
        assert answer.body.endswith(b"data: [DONE]\n\n") and not answer.cut


def test_a_stream_goes_on_when_its_pod_is_told_of_no_more(
    server: ApiServer, engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    """As when somebody takes the label from a pod to look into it, or deletes it by force."""
    server.put(*pods(engines))
    with gateway(tmp_path) as program, stream(program.url, engines[0]) as (held, line):
        server.delete("m-1-0")
        becomes(program, m_1_1=("ready", True))
        assert answerers(program.url) == {"m-1-1"}
        assert program.state()["in_flight"] == 1
        held.go_on.set()
        answer = line.answer()
        assert answer.body.endswith(b"data: [DONE]\n\n") and not answer.cut


def test_a_new_pod_behind_a_known_name_and_address_is_another_engine(
    server: ApiServer, engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    """What was in flight there has ended with the old one: nobody else would tell, if its machine is gone."""
    server.put(*pods(engines))
    with gateway(tmp_path) as program, stream(program.url, engines[0]) as (_, line):
        server.put(pod("m-1-0", running(engines[0].host), uid="another"))
        answer = line.answer()
        assert b"[DONE]" not in answer.body and b'"error"' in answer.body
        becomes(program, m_1_0=("ready", True), m_1_1=("ready", True))


def test_if_no_pod_is_ready_those_whose_engines_answer_are_used(
    server: ApiServer, engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    """A control plane that lost its nodes calls all pods not ready, while all of them serve."""
    server.put(*pods(engines))
    with gateway(tmp_path) as program:
        one, other = pods(engines, ready=False)
        server.put(one)
        becomes(program, m_1_0=("not ready", False), m_1_1=("ready", True))
        assert program.scrape().value("dp_vllm_replica_used_unready") == 0
        server.put(other)
        becomes(program, m_1_0=("not ready", True), m_1_1=("not ready", True))
        assert answerers(program.url) == {"m-1-0", "m-1-1"}
        assert program.scrape().value("dp_vllm_replica_used_unready") == 2
        engines[0].down()
        becomes(program, m_1_0=("not ready", False), m_1_1=("not ready", True))
        assert program.scrape().value("dp_vllm_replica_used_unready", replica="m-1-0") == 0
        assert answerers(program.url) == {"m-1-1"}
        engines[0].up()
        server.put(*pods(engines[:1]))
        becomes(program, m_1_0=("ready", True), m_1_1=("not ready", False))
        assert answerers(program.url) == {"m-1-0"}


def test_changes_of_all_replicas_reach_those_that_are_not_ready_for_a_while(
    server: ApiServer, engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    one, other = engines
    server.put(*pods((one,)), pod("m-1-1", running(other.host, ready=False)))
    with gateway(tmp_path) as program:
        programs.wait_until(lambda: program.state()["replicas"]["m-1-1"]["healthy"], "its engine answers")
        answer = wire.ask(program.url, "POST", "/reset_prefix_cache")
        assert set(answer.json()["results"]) == {"m-1-0", "m-1-1"}


# what is told


def test_without_replicas_the_gateway_is_ready_and_says_when_to_come_again(server: ApiServer, tmp_path: Path) -> None:
    with gateway(tmp_path) as program:
        answer = wire.complete(program.url)
        assert (answer.status, answer.error["code"]) == (503, "no_ready_replica")
        assert answer.headers["retry-after"] == "5"
        assert "the model m has no replica: it is scaled to zero" in answer.error["message"]
        assert wire.ask(program.url, "GET", "/health").status == 503
        assert wire.ask(program.url, "GET", "/ready").status == 200


def test_clients_are_told_what_the_first_replicas_wait_for(server: ApiServer, tmp_path: Path) -> None:
    image = {"waiting": {"reason": "ImagePullBackOff", "message": "registry.example.org/secret: no such image"}}
    server.put(*(pod(f"m-1-{number}", {"phase": "Pending"}) for number in range(20)))
    server.put(pod("m-1-0", {"phase": "Pending", "containerStatuses": [container(image)]}))
    with gateway(tmp_path) as program:
        answer = wire.complete(program.url)
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        message = answer.error["message"]
        assert "no replica is available (0 of 20)" in message
        assert "replica m-1-0: starting - its pod is starting (ImagePullBackOff)" in message
        assert "registry" not in message
        assert message.endswith("and 12 more") and len(message) < 1000


def test_it_is_not_ready_before_the_first_list(server: ApiServer, tmp_path: Path) -> None:
    server.on_list = refusing(403, "Forbidden", 'User "x" cannot list resource "pods"')
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = programs.python("-m", "dp_vllm_gateway", "--port", str(port), *MODEL)
    with programs.running(argv, tmp_path / "log", ready=lambda: programs.answers(url + "/ready", 503)):
        told = wire.ask(url, "GET", "/ready").error
        assert told["code"] == "not_ready" and 'User "x" cannot list resource "pods"' in told["message"]
        assert wire.complete(url).status == 503
        server.on_list = None
        programs.wait_until(lambda: programs.answers(url + "/ready"), "it is ready")


def test_it_is_not_ready_before_each_ready_pod_was_looked_at(
    server: ApiServer, engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    mute = address()
    server.put(*pods(engines), pod("m-1-7", running(mute)))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = programs.python("-m", "dp_vllm_gateway", "--port", str(port), "--probe-seconds", "4", *MODEL)
    with (
        socket.create_server((mute, PORT)) as listener,
        programs.running(argv, tmp_path / "log", ready=lambda: programs.answers(url + "/ready", 503)),
    ):
        told = wire.ask(url, "GET", "/ready").error
        assert told["message"] == "not every replica was looked at yet: m-1-7"
        assert wire.complete(url).status == 200, "who asks all the same is answered"
        programs.wait_until(lambda: programs.answers(url + "/ready"), "it was looked at, though in vain")
        server.put(pod("m-1-8", running(mute)))
        assert wire.ask(url, "GET", "/ready").status == 200, "what comes later does not make it unready"
        assert listener.fileno() > 0


def test_how_fresh_its_knowledge_is_can_be_seen(
    server: ApiServer, engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    server.put(*pods(engines))
    with gateway(tmp_path) as program:
        assert program.state()["source"]["problem"] == ""
        assert wire.ask(program.url, "GET", "/ready").json()["age_seconds"] < 20
        server.down()
        programs.wait_until(lambda: "Cannot connect" in program.state()["source"]["problem"], "it is told")
        age = program.scrape().value("dp_vllm_endpoints_age_seconds")
        programs.wait_until(
            lambda: program.scrape().value("dp_vllm_endpoints_age_seconds") > age + 0.5, "what is known grows old"
        )
        ready = wire.ask(program.url, "GET", "/ready")
        assert ready.status == 200 and "Cannot connect" in ready.json()["problem"]
        assert answerers(program.url) == {"m-1-0", "m-1-1"}
        server.up()
        programs.wait_until(lambda: program.state()["source"]["problem"] == "", "it is heard again")


def test_gateways_side_by_side_know_the_same(server: ApiServer, engines: tuple[Engine, Engine], tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    server.put(*pods(engines))
    with gateway(tmp_path / "one") as one, gateway(tmp_path / "other") as other:
        gateways = (one, other)
        for each in gateways:
            assert answerers(each.url) == {"m-1-0", "m-1-1"}
        server.put(pod("m-1-0", running(engines[0].host), deleted=True))
        for each in gateways:
            becomes(each, m_1_0=("draining", False), m_1_1=("ready", True))
            assert answerers(each.url) == {"m-1-1"}


# keys


def _swap(volume: Path, number: int, content: str | None) -> None:
    """Replace a volume's files all at once, as the kubelet does."""
    version = volume / f"..version-{number}"
    version.mkdir(parents=True)
    if content is not None:
        (version / "keys").write_text(content)
    new = volume / "..data_tmp"
    new.symlink_to(version.name)
    os.replace(new, volume / "..data")
    if not (volume / "keys").is_symlink():
        (volume / "keys").symlink_to("..data/keys")


@pytest.mark.parametrize("content", [None, "", "\n\n"], ids=["missing", "empty", "blank"])
def test_without_keys_every_request_is_refused_until_there_are_some(
    server: ApiServer, engines: tuple[Engine, Engine], tmp_path: Path, content: str | None
) -> None:
    server.put(*pods(engines))
    volume = tmp_path / "secret"
    _swap(volume, 1, content)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    flags = ("--api-key-file", str(volume / "keys"), *MODEL)
    argv = programs.python("-m", "dp_vllm_gateway", "--port", str(port), *flags)
    with programs.running(argv, tmp_path / "log", ready=lambda: programs.answers(url + "/ready", 503)):
        told = wire.ask(url, "GET", "/ready").error
        assert told["code"] == "no_keys" and str(volume / "keys") in told["message"]
        for headers in ({}, {"authorization": "Bearer "}, {"authorization": "Bearer secret"}):
            assert wire.complete(url, headers).status == 401
        known = {"authorization": "Bearer secret"}
        for number, (keys, status) in enumerate((("secret\n", 200), ("other\n", 401), ("", 401), ("secret", 200)), 2):
            _swap(volume, number, keys)
            programs.wait_until(lambda status=status: wire.complete(url, known).status == status, f"{keys!r}")  # type: ignore[misc]
            assert wire.complete(url).status == 401
        assert programs.answers(url + "/ready")


# the command line


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "--replica http://HOST:PORT (repeatable), --endpoints-file PATH or --kubernetes-model NAME"),
        (("--kubernetes-model", "m", "--endpoints-file", "x"), "in one way"),
        (("--kubernetes-model", "m", "--replica", "http://x:1"), "in one way"),
        (("--replica", "http://x:1", "--namespace", "n"), "--namespace needs --kubernetes-model"),
        (("--kubernetes-model", "M/x"), "--kubernetes-model 'M/x' is not allowed"),
        (("--replica", "http://x:1", "--prefix-weight", "nan"), "'--prefix-weight': 'nan' is not a number"),
        (("--replica", "http://x:1", "--queue-seconds", "nan"), "'--queue-seconds': 'nan' is not a number"),
        (("--kubernetes-model", "m", "--namespace", "../x"), "--namespace '../x' is not allowed"),
        (("--replica", "http://x:1", "--peer-port", "1"), "--peer-port needs --kubernetes-model"),
        (("--kubernetes-model", "m", "--peer-port", "1", "--gateway-workers", "2"), "needs --gateway-workers 1"),
        (("--kubernetes-model", "m", "--peer-port", "1"), "POD_IP='' is none"),
    ],
)
def test_what_is_asked_wrongly_is_named(tmp_path: Path, flags: tuple[str, ...], says: str) -> None:
    argv = programs.python("-m", "dp_vllm_gateway", "--port", str(free_port()), *flags)
    with programs.running(argv, tmp_path / "log") as program:
        assert (program.wait(), says in program.output()) == (2, True), program.output()


def test_without_a_cluster_to_log_in_to_it_ends_at_once(tmp_path: Path) -> None:
    nowhere = {**os.environ, "KUBECONFIG": str(tmp_path / "none")}
    nowhere.pop("KUBERNETES_SERVICE_HOST", None)
    argv = programs.python("-m", "dp_vllm_gateway", "--port", str(free_port()), *MODEL)
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=50, env=nowhere)
    assert ended.returncode == 1 and str(tmp_path / "none") in ended.stderr and "Traceback" not in ended.stderr


def test_without_the_client_library_the_extra_is_named() -> None:
    program = "import sys; sys.modules['kubernetes'] = None; from dp_vllm_gateway.__main__ import main; main()"
    argv = [*programs.python("-c", program), *MODEL]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=50)
    assert (ended.returncode, "pip install 'dp-vllm[kubernetes]'" in ended.stderr) == (1, True), ended.stderr


def test_a_gateway_elsewhere_does_not_load_the_client_library() -> None:
    program = (
        "import dp_vllm_gateway.__main__, sys; sys.exit(any(m.split('.')[0] == 'kubernetes' for m in sys.modules))"
    )
    assert subprocess.run(programs.python("-c", program), timeout=50).returncode == 0


def test_the_namespace_is_the_flags_or_the_variables_or_the_logins(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (variable, flags, expected) in enumerate(
        (("", (), "ours"), ("theirs", (), "theirs"), ("theirs", ("--namespace", "mine"), "mine"))
    ):
        monkeypatch.setenv("POD_NAMESPACE", variable)
        directory = tmp_path / str(number)
        directory.mkdir()
        server.asked.clear()
        with gateway(directory, *flags):
            assert server.asked[0].target.startswith(f"/api/v1/namespaces/{expected}/pods?")
