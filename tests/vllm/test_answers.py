"""What the gateway makes of the real engine's CORS headers, redirects and aborts."""

import json
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import programs
import pytest
import real_engine
import wire
from programs import Program, wait_until

pytestmark = pytest.mark.vllm

LONG: dict[str, Any] = {"prompt": "a", "max_tokens": 1500, "ignore_eos": True, "model": real_engine.NAME}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Program, Program, Program]]:
    """Two engines, and a gateway before them."""
    directory = tmp_path_factory.mktemp("served")
    env = {"VLLM_SERVER_DEV_MODE": "1"}
    with real_engine.engine(directory, env=env) as one, real_engine.engine(directory, env=env) as two:
        replicas = ("--replica", one.url, "--replica", two.url)
        with programs.gateway(directory, *replicas, "--policy", "round-robin") as gateway:
            yield one, two, gateway


def lines(url: str, method: str, path: str, **headers: str) -> tuple[int, list[tuple[str, str]]]:
    """Status and headers, each as often as it is there."""
    with wire.line(url) as line:
        line.send(wire.request(method, path, b"{}" if method == "POST" else None, headers))
        first, *rest = line.read_until(b"\r\n\r\n").decode().split("\r\n")[:-2]
    return int(first.split()[1]), [(name.lower(), value) for name, _, value in (one.partition(": ") for one in rest)]


def running(engine: Program) -> float:
    metrics = wire.ask(engine.url, "GET", "/metrics").body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in metrics if line.startswith("vllm:num_requests_running{"))


def test_the_gateway_says_of_cors_what_the_engine_says(served: tuple[Program, Program, Program]) -> None:
    page = {"origin": "https://page.example"}
    preflight = page | {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    for method, path, headers in (
        ("OPTIONS", "/v1/completions", preflight),
        ("GET", "/v1/models", page),
        ("POST", "/v1/completions", page),
        ("GET", "/health", page),
    ):
        engines, ours = (lines(one.url, method, path, **headers) for one in (served[0], served[2]))
        told, said = (
            [pair for pair in answer[1] if pair[0].startswith("access-control")] for answer in (engines, ours)
        )
        assert (ours[0], sorted(said)) == (engines[0], sorted(told)), path
        assert next(value for name, value in ours[1] if name == "vary").startswith("Origin"), path


def test_no_answer_leads_to_an_engine(served: tuple[Program, Program, Program]) -> None:
    one, two, gateway = served
    for method, path in (
        ("POST", "/v1/chat/completions/"),
        ("GET", "/docs/"),
        ("GET", "/unheard/"),
        ("POST", "/scale/"),
    ):
        _, headers = lines(gateway.url, method, path)
        for name, value in headers:
            assert not any(engine.url.partition("//")[2] in value for engine in (one, two)), (path, name, value)


@pytest.mark.parametrize("through", ["the engine", "the gateway"])
def test_an_abort_on_demand_is_the_answer(served: tuple[Program, Program, Program], through: str) -> None:
    one, two, gateway = served
    with futures.ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(wire.complete, gateway.url, **LONG, stream=stream) for stream in (False, True)]
        wait_until(lambda: running(one) + running(two) == 2, "both run")
        for url in [gateway.url] if through == "the gateway" else [one.url, two.url]:
            assert wire.ask(url, "POST", "/abort_requests", {}).status == 200
        whole, streamed = (each.result() for each in asked)
    assert (whole.status, whole.json()["choices"][0]["finish_reason"]) == (200, "abort")
    events = streamed.body.decode().split("\n\n")
    assert '"error"' not in streamed.body.decode() and events[-2] == "data: [DONE]"
    assert json.loads(events[-3].removeprefix("data: "))["choices"][0]["finish_reason"] == "abort"
    assert "attempts=2" not in gateway.output()
