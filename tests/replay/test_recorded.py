"""From the real gateway before simulated engines to a file, and from the file to a replay."""

import contextlib
from pathlib import Path

import programs
import wire

from dp_vllm.policy import Policy
from dp_vllm.replay import source
from dp_vllm.replay.fleet import Fleet, Sizes, arrivals
from dp_vllm.replay.report import row
from dp_vllm.replay.trace import ideal_hit_rate
from dp_vllm.sim.engine import Pace

TURNS = 4


def test_what_the_gateway_records_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with contextlib.ExitStack() as stack:
        engines = [stack.enter_context(programs.sim(tmp_path, "--sim-load-seconds", "0")) for _ in range(2)]
        replicas = [word for engine in engines for word in ("--replica", engine.url)]
        admin = tmp_path / "admin.sock"
        flags = ("--record", str(path), "--admin-socket", str(admin))
        url = stack.enter_context(programs.gateway(tmp_path, *replicas, *flags)).url
        counted = [converse(url, name) for name in ("one", "another")]
        programs.wait_until(lambda: path.read_bytes().count(b"\n") == 2 * TURNS, "all is recorded")
        assert not wire.in_flight(f"unix:{admin}")

    requests, block_tokens = source.read(str(path), None)
    assert [request.prompt_tokens for request in requests] == [tokens for turns in counted for tokens in turns]
    assert {request.completion_tokens for request in requests} == {8}

    sizes = Sizes(2, block_tokens, 1000, Pace(15_000, 0.02, 0.0001))
    fleet = Fleet(sizes, Policy.PREFIX)
    answers = list(fleet.run(arrivals(requests, sizes, speed=0.01)))
    found = row(answers, ideal_hit_rate(requests, block_tokens, 2000))
    assert found.of_ideal == 1.0
    assert found.hit_rate > 0.5
    assert fleet.in_flight == 0


def converse(url: str, name: str) -> list[int]:
    """Ask with all that was said before and a bit more; how many tokens the engine counted each time."""
    messages, counted = [{"role": "system", "content": f"I am {name}. " + "Be kind. " * 300}], []
    for turn in range(TURNS):
        messages.append({"role": "user", "content": f"Question {turn}: " + "why is that so? " * 80})
        body = {"model": "demo/model", "messages": messages, "max_tokens": 8}
        answer = wire.ask(url, "POST", "/v1/chat/completions", body)
        assert answer.status == 200, answer
        counted.append(answer.json()["usage"]["prompt_tokens"])
        messages.append({"role": "assistant", "content": answer.json()["choices"][0]["message"]["content"]})
    return counted
