"""Two gateways of one model: each knows what went through the other, and believes nobody else."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import programs
import pytest
import scripted
import watched
import wire
from replica_pods import PORT, address, gateway_pod, pod, running
from scripted import FINE, STREAM, Asked, Engine, Peer, event, said, whole
from scripted_api import ApiServer, api_server

from dp_vllm import names
from dp_vllm_gateway.peers import frames
from dp_vllm_gateway.workers import news
from dp_vllm_gateway.workers.news import Load, Standing

LONG = "All of this has been said before. " * 300


@dataclass(frozen=True, slots=True)
class Cluster:
    """An API server that knows two replicas, and addresses of gateways."""

    server: ApiServer
    engines: tuple[Engine, Engine]
    directory: Path
    addresses: tuple[str, str]

    @contextlib.contextmanager
    def gateway(self, ip: str) -> Iterator[watched.Gateway]:
        """A gateway in the pod with this address. It may have been killed when the block ends."""
        directory = self.directory / f"{ip}-{time.monotonic_ns()}"
        directory.mkdir()
        admin = directory / "admin.sock"
        words = ("--kubernetes-model", "m", "--peer-port", str(names.PEER_PORT), "--admin-socket", str(admin))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("POD_IP", ip)
            with programs.gateway(directory, *words) as program:
                yield watched.Gateway(program, f"unix:{admin}")


def peers(gateway: watched.Gateway, count: int) -> None:
    """Wait until the gateway is told by so many others."""
    programs.wait_until(lambda: gateway.scrape().value("dp_vllm_gateway_peers") == count, f"{count} tell it")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("cluster")
    with (
        pytest.MonkeyPatch.context() as patch,
        api_server() as server,
        scripted.engine(host=address(), port=PORT) as one,
        scripted.engine(host=address(), port=PORT) as other,
    ):
        patch.setenv("KUBECONFIG", str(server.kubeconfig(directory / "kubeconfig")))
        for variable in ("KUBERNETES_SERVICE_HOST", "POD_NAMESPACE"):
            patch.delenv(variable, raising=False)
        made = Cluster(server, (one, other), directory, (address(), address()))
        server.put(*(pod(f"m-1-{number}", running(engine.host)) for number, engine in enumerate(made.engines)))
        server.put(*(gateway_pod(f"m-gateway-{number}", ip) for number, ip in enumerate(made.addresses)))
        yield made


@pytest.fixture(scope="module")
def both(cluster: Cluster) -> Iterator[tuple[watched.Gateway, watched.Gateway]]:
    with cluster.gateway(cluster.addresses[0]) as one, cluster.gateway(cluster.addresses[1]) as other:
        yield one, other


@pytest.fixture
def pair(
    cluster: Cluster, both: tuple[watched.Gateway, watched.Gateway]
) -> Iterator[tuple[watched.Gateway, watched.Gateway]]:
    for engine in cluster.engines:
        engine.script = FINE
    for gateway in both:
        peers(gateway, 1)
    yield both
    for gateway in both:
        gateway.wait_until_idle()


def begin(url: str, sequences: int) -> wire.Line:
    """A stream that goes on until its engine ends it."""
    line = wire.Line(url)
    body = b'{"model": "demo/model", "prompt": "hello", "stream": true, "n": %d}' % sequences
    line.send(wire.request("POST", "/v1/completions", body))
    line.read_until(b'"a"')
    return line


def seen(gateway: watched.Gateway) -> dict[str, int]:
    """What this gateway counts at each replica when it decides for a request."""
    assert wire.complete(gateway.url, prompt=LONG).status == 200
    last: dict[str, Any] = wire.ask(gateway.admin, "GET", "/decisions").json()["decisions"][-1]
    return {each["replica"]: each["in_flight"] for each in last["candidates"]}


def counts(gateway: watched.Gateway, expected: dict[str, int]) -> Callable[[], bool]:
    return lambda: seen(gateway) == expected


# what they know of each other


def test_the_beginning_of_a_prompt_that_went_through_one_is_found_by_the_other(
    pair: tuple[watched.Gateway, watched.Gateway],
) -> None:
    for number, (one, other) in enumerate([pair, pair[::-1]] * 3):
        prompt = f"{number} {LONG}"
        sent_to = wire.complete(one.url, prompt=prompt).replica
        again = wire.complete(other.url, prompt=prompt + " And more.")
        assert (again.replica, again.headers["x-dp-vllm-reason"][:8]) == (sent_to, "prefix 0")


def test_what_is_in_flight_through_one_counts_for_the_other(
    cluster: Cluster, pair: tuple[watched.Gateway, watched.Gateway]
) -> None:
    def script(peer: Peer, asked: Asked) -> None:
        if b'"stream": true' in asked.body:
            peer.send(STREAM, event(said("a")))
        else:
            FINE(peer, asked)

    for engine in cluster.engines:
        engine.script = script
    one, other = pair
    with contextlib.closing(begin(one.url, 3)):
        busy = next(name for name, it in one.state()["replicas"].items() if it["in_flight"])
        expected = {"m-1-0": 0, "m-1-1": 0, busy: 3}
        programs.wait_until(counts(other, expected), "the other counts them")
        assert other.state()["in_flight"] == 0, "what it tells is its own: Prometheus asks each gateway"
        assert other.scrape().value("dp_vllm_replica_sequences") == 0
    programs.wait_until(counts(other, {"m-1-0": 0, "m-1-1": 0}), "and no longer")


def test_a_response_is_found_by_the_other(cluster: Cluster, pair: tuple[watched.Gateway, watched.Gateway]) -> None:
    def store(peer: Peer, asked: Asked) -> None:
        response = asked.target.rpartition("/")[2] if asked.method == "GET" else f"resp_{time.monotonic_ns()}"
        peer.send(whole(200, {"id": response, "object": "response"}))

    for engine in cluster.engines:
        engine.script = store
    for one, other in [pair, pair[::-1]] * 2:
        made = wire.ask(one.url, "POST", "/v1/responses", {"input": "x"})
        for _ in range(2):
            assert wire.ask(other.url, "GET", f"/v1/responses/{made.json()['id']}").replica == made.replica


def test_emptied_caches_are_empty_for_the_other(pair: tuple[watched.Gateway, watched.Gateway]) -> None:
    one, other = pair
    prompt = "This is soon forgotten. " * 300
    wire.complete(one.url, prompt=prompt)
    assert wire.complete(one.url, prompt=prompt).headers["x-dp-vllm-reason"].startswith("prefix")
    assert wire.ask(other.url, "POST", "/reset_prefix_cache").status == 200
    assert wire.complete(one.url, prompt=prompt).headers["x-dp-vllm-reason"] == "least-load"


# who is listened to


def connection(cluster: Cluster, source: str, to: int = 0) -> socket.socket:
    """To a gateway's port for others, from this address."""
    return socket.create_connection((cluster.addresses[to], names.PEER_PORT), 5, source_address=(source, 0))


def is_closed(sock: socket.socket) -> bool:
    """Whether the gateway closes the connection, whatever it says before."""
    with contextlib.suppress(ConnectionResetError):
        while sock.recv(65536):
            pass
    return True


def test_who_is_no_gateway_of_the_model_is_told_nothing(
    cluster: Cluster, pair: tuple[watched.Gateway, watched.Gateway]
) -> None:
    with connection(cluster, address()) as sock, contextlib.suppress(ConnectionResetError):
        assert sock.recv(65536) == b"", "not even a greeting"
    peers(pair[0], 1)


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01" + b"x" * 500,
        frames.GREETING.replace(b"1", b"2"),
        frames.GREETING + b"\xff\xff\xff\xff",
        frames.GREETING + frames.framed(b"garbage"),
        frames.GREETING + frames.framed(news.datagram(0, Standing(loads=(Load("m-1-0", "", -5, -5, -5),)), [])),
    ],
    ids=["another protocol", "another version", "too long", "garbage", "impossible"],
)
def test_what_is_not_understood_ends_the_connection_and_nothing_else(
    cluster: Cluster, pair: tuple[watched.Gateway, watched.Gateway], said: bytes
) -> None:
    third = address()
    cluster.server.put(gateway_pod("m-gateway-9", third))
    programs.wait_until(lambda: _greets(cluster, third), "the gateway knows the third one")
    with connection(cluster, third) as sock:
        sock.sendall(said)
        assert is_closed(sock)
    cluster.server.delete("m-gateway-9")
    assert all(count == 0 for count in seen(pair[0]).values())
    peers(pair[0], 1)


def _greets(cluster: Cluster, source: str) -> bool:
    with contextlib.suppress(OSError), connection(cluster, source) as sock:
        return sock.recv(65536).startswith(frames.GREETING)
    return False


def test_no_number_in_a_request_parts_the_gateways(pair: tuple[watched.Gateway, watched.Gateway]) -> None:
    before = [gateway.scrape() for gateway in pair]
    for gateway in pair:
        for number in (f"{2**54}", f"{10**20}", "1" + "0" * 400, "9" * 5000, "-1", "1e400", '"7"', "[]"):
            body = b'{"prompt": "x", "n": %b, "priority": %b}' % (number.encode(), number.encode())
            assert wire.ask(gateway.url, "POST", "/v1/completions", body).status == 200
    for gateway, scrape in zip(pair, before, strict=True):
        gateway.wait_until_idle()
        assert gateway.scrape().since(scrape)("dp_vllm_gateway_message_errors_total") == 0
        peers(gateway, 1)


# who comes and goes


def test_a_gateway_that_is_killed_is_forgotten_and_a_new_one_is_told_all(
    cluster: Cluster, pair: tuple[watched.Gateway, watched.Gateway]
) -> None:
    def script(peer: Peer, asked: Asked) -> None:
        peer.send(STREAM, event(said("a"))) if b'"n": 2' in asked.body else FINE(peer, asked)

    for engine in cluster.engines:
        engine.script = script
    third = address()
    cluster.server.put(gateway_pod("m-gateway-3", third))
    with cluster.gateway(third) as killed:
        peers(pair[0], 2)
        lost = begin(killed.url, 2)
        sent_to = wire.complete(killed.url, prompt=f"killed {LONG}").replica
        programs.wait_until(lambda: sorted(seen(pair[0]).values()) == [0, 2], "its stream is counted")
        os.kill(killed.program.pid, signal.SIGKILL)
        lost.close()
    peers(pair[0], 1)
    assert set(seen(pair[0]).values()) == {0}, "and nothing of it any more"
    with cluster.gateway(third) as new:
        peers(new, 2)
        again = wire.complete(new.url, prompt=f"killed {LONG}")
        assert (again.replica, again.headers["x-dp-vllm-reason"][:6]) == (sent_to, "prefix")
    cluster.server.delete("m-gateway-3")
