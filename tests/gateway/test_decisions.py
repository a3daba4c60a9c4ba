"""What the admin socket tells of the last decisions: what each one saw, and nothing that is nobody's business."""

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import programs
import pytest
import scripted
import wire
from ports import free_port
from scripted import FINE, STREAM, Asked, Engines, Peer, Script, event, said, then_closing, whole
from watched import Gateway, gateway

from dp_vllm.endpoints import Endpoint, EndpointSet
from dp_vllm.policy import PREFIX_WEIGHT, Policy
from dp_vllm_gateway.call import Call
from dp_vllm_gateway.decisions import LONGEST, MOST, MOST_PER_SECOND, Decision, Decisions
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.member import Seen
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.routing.load import PREFILL_TOKENS_PER_SECOND, STEP_SECONDS
from dp_vllm_gateway.routing.router import Router

PROMPT = "a secret beginning. " * 350
"""7,000 bytes, 1,750 tokens as the gateway estimates them: too few for it to learn from how fast an engine reads."""


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def running(
    both_engines: Engines, metrics_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engines, Gateway]]:
    """Two engines, and a gateway that wants a key."""
    flags = ("--api-key", "right-key", "--metrics-port", str(metrics_port))
    with gateway(tmp_path_factory.mktemp("gateway"), *both_engines, flags=flags) as program:
        yield both_engines, program


@pytest.fixture
def program(running: tuple[Engines, Gateway], engines: Engines) -> Gateway:
    """The gateway, with engines that answer as usual."""
    return running[1]


def complete(program: Gateway, request_id: str, **fields: Any) -> wire.Answer:
    headers = {"authorization": "Bearer right-key", "x-request-id": request_id}
    return wire.complete(program.url, headers, **fields)


def decisions(program: Gateway, request_id: str) -> list[dict[str, Any]]:
    """The decisions about one request."""
    listed = wire.ask(program.admin, "GET", "/decisions").json()["decisions"]
    return [decision for decision in listed if decision["id"] == request_id]


def candidates(decision: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {candidate["replica"]: candidate for candidate in decision["candidates"]}


def test_a_decision_tells_what_was_seen_when_it_was_made(program: Gateway, engines: Engines) -> None:
    for engine in engines:
        engine.script = scripted.saying(STREAM, event(said("a")))
    body = json.dumps({"model": "demo/model", "prompt": PROMPT, "stream": True, "n": 3}).encode()
    headers = {"authorization": "Bearer right-key", "x-request-id": "first"}
    with wire.line(program.url) as client:
        client.send(wire.request("POST", "/v1/completions", body, headers))
        client.read_until(b'"a"')
        for engine in engines:
            engine.script = FINE
        answer = complete(program, "second", prompt=PROMPT + "and more")
    program.wait_until_idle()

    (first,), (second,) = decisions(program, "first"), decisions(program, "second")
    home, other = first["replica"], "1" if first["replica"] == "0" else "0"
    assert first["reason"] == "least-load"
    assert {name: each["cached_tokens"] for name, each in candidates(first).items()} == {"0": 0, "1": 0}

    assert (second["replica"], second["reason"]) == (home, answer.headers["x-dp-vllm-reason"])
    assert (second["model"], second["attempt"], second["queued_seconds"]) == ("demo/model", 1, 0)
    assert second["prompt_tokens"] == pytest.approx(1_750, abs=10)
    assert second["at"] >= first["at"]
    there, elsewhere = candidates(second)[home], candidates(second)[other]
    assert (there["in_flight"], elsewhere["in_flight"]) == (3, 0)
    assert there["expected_wait_seconds"] == elsewhere["expected_wait_seconds"] == 0
    assert second["reason"] == f"prefix {there['cached_tokens'] / second['prompt_tokens']:.2f}"
    saved = PREFIX_WEIGHT * there["cached_tokens"] / PREFILL_TOKENS_PER_SECOND
    assert there["cost_seconds"] == pytest.approx(3 * STEP_SECONDS - saved, abs=STEP_SECONDS)
    assert elsewhere["cost_seconds"] == 0


def test_a_prompt_that_is_being_read_is_a_wait(program: Gateway, engines: Engines) -> None:
    def script(peer: Peer, asked: Asked) -> None:
        (FINE if b"hello" in asked.body else scripted.saying(STREAM))(peer, asked)

    for engine in engines:
        engine.script = script
    body = json.dumps({"model": "demo/model", "prompt": PROMPT[::-1], "stream": True}).encode()
    with wire.line(program.url) as client:
        headers = {"authorization": "Bearer right-key", "x-request-id": "long"}
        client.send(wire.request("POST", "/v1/completions", body, headers))
        programs.wait_until(lambda: bool(decisions(program, "long")), "the long one is sent")
        complete(program, "short", prompt="hello")
    program.wait_until_idle()

    (long,), (short,) = decisions(program, "long"), decisions(program, "short")
    waits = {name: each["expected_wait_seconds"] for name, each in candidates(short).items()}
    assert waits.pop(long["replica"]) == long["prompt_tokens"] / PREFILL_TOKENS_PER_SECOND > STEP_SECONDS
    assert waits == {short["replica"]: 0} and short["reason"] == "least-load"
    assert [each["cached_tokens"] for each in short["candidates"]] == [None, None], "it is too short to be compared"


def test_each_attempt_is_a_decision_without_those_that_failed(program: Gateway, engines: Engines) -> None:
    for engine in engines:
        engine.script = once(engines, then_closing())
    assert complete(program, "again").status == 200
    first, second = decisions(program, "again")
    assert (first["attempt"], second["attempt"]) == (1, 2)
    assert set(candidates(first)) == {"0", "1"}
    assert set(candidates(second)) == {second["replica"]} == {"0", "1"} - {first["replica"]}


def once(engines: Engines, script: Script) -> Script:
    """That script for the first that is asked; then all answer."""

    def run(peer: Peer, asked: Asked) -> None:
        for engine in engines:
            engine.script = FINE
        script(peer, asked)

    return run


def test_what_only_one_replica_has_goes_home(program: Gateway, engines: Engines) -> None:
    for engine in engines:
        engine.script = scripted.saying(whole(200, {"id": "resp_1", "object": "response", "status": "completed"}))
    headers = {"authorization": "Bearer right-key", "x-request-id": "home"}
    made = wire.ask(program.url, "POST", "/v1/responses", {"input": "x"}, headers)
    wire.ask(program.url, "POST", "/v1/responses", {"input": "y", "previous_response_id": "resp_1"}, headers)
    _, home = decisions(program, "home")
    assert (home["reason"], list(candidates(home))) == ("home", [made.replica])


def test_neither_prompt_nor_key_nor_answer_is_told(program: Gateway) -> None:
    assert complete(program, "private", prompt=PROMPT).status == 200
    told = wire.ask(program.admin, "GET", "/decisions").body
    assert b'"private"' in told
    for private in (b"secret", b"right-key", b"fine"):
        assert private not in told


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (b"\\u001b[31mred", "\\x1b[31mred"),
        (b"\\ud800", "\\ud800"),
        (b"m" * 100_000, "m" * LONGEST),
    ],
)
def test_a_name_that_a_client_makes_up_hurts_nobody(program: Gateway, model: bytes, told: str) -> None:
    body = b'{"model": "%b", "prompt": "x"}' % model
    headers = {"authorization": "Bearer right-key", "x-request-id": told[:5].strip("\\[")}
    wire.ask(program.url, "POST", "/v1/completions", body, {**headers, "content-type": "application/json"})
    assert decisions(program, headers["x-request-id"])[-1]["model"] == told


def test_only_the_admin_socket_tells(program: Gateway, engines: Engines, metrics_port: int) -> None:
    key = {"authorization": "Bearer right-key"}
    assert wire.ask(f"http://127.0.0.1:{metrics_port}", "GET", "/decisions").status == 404
    assert wire.ask(program.url, "GET", "/decisions").status == 401
    assert wire.ask(program.url, "GET", "/decisions", headers=key).json()["object"] == "text_completion", "an engine's"
    assert wire.ask(program.admin, "POST", "/decisions").status == 405


def test_the_oldest_is_forgotten_first(tmp_path: Path, engines: Engines) -> None:
    with gateway(tmp_path, *engines) as program:
        with wire.line(program.url) as client:
            for number in range(MOST + 3):
                body = b'{"prompt": "x"}'
                headers = {"x-request-id": f"r{number}", "content-type": "application/json"}
                client.send(wire.request("POST", "/v1/completions", body, headers))
                assert client.answer("POST").status == 200
        listed = wire.ask(program.admin, "GET", "/decisions").json()["decisions"]
    assert [decision["id"] for decision in listed] == [f"r{number}" for number in range(3, MOST + 3)]


# every policy


async def _pool() -> Pool:
    pool = Pool(connect_seconds=1.0, clock=lambda: 1000.0)
    names = "012"
    pool.sync(EndpointSet(1, tuple(Endpoint(name, f"h:{name}") for name in names)))
    for name in names:
        pool.observe(name, "", Seen(healthy=True, certain=True))
    return pool


FACTS = Facts(tokens=1000, blocks=[1, 2, 3], block_tokens=250.0, affinity=7)


def decided(policy: Policy) -> Decision:
    """A decision, told after the loads that it saw have changed."""
    pool = asyncio.run(_pool())
    router, kept = Router(policy, rng=random.Random(1)), Decisions()
    choice = router.choose(pool.candidates(FACTS), FACTS, watched=True)
    assert choice is not None
    kept.record(12.5, Call("a", "POST", "/", 0.0, attempts=1), FACTS, choice)
    with pool.lease(choice.picked, FACTS):
        (decision,) = kept.told()
    return decision


@pytest.mark.parametrize("policy", Policy)
def test_whatever_the_policy_its_candidates_are_told(policy: Policy) -> None:
    decision = decided(policy)
    names = {candidate.replica for candidate in decision.candidates}
    assert len(names) == (2 if policy is Policy.POWER_OF_TWO else 3), "chance named two"
    assert decision.replica in names and decision.at == 12.5
    for candidate in decision.candidates:
        assert (candidate.in_flight, candidate.expected_wait_seconds, candidate.handicap) == (0, 0.0, 0)
        compared = (candidate.cached_tokens, candidate.cost_seconds)
        assert compared == ((0, 0.0) if policy is Policy.PREFIX else (None, None))


def test_of_very_many_decisions_some_are_left_out() -> None:
    kept = Decisions()
    assert sum(kept.wants(5.0) for _ in range(10_000)) == MOST, "a burst is kept whole"
    in_a_second = sum(kept.wants(5.0 + number / 10_000) for number in range(10_000))
    assert in_a_second == pytest.approx(MOST_PER_SECOND, abs=2)
    assert all(kept.wants(100.0 + number / 100) for number in range(1000)), "as many as most gateways ever have"
