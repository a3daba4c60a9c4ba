"""A client that does not read."""

import json
from collections import Counter
from pathlib import Path

import programs
from programs import wait_until
from sim.scrape import metric
from wire import ask, line, request

CHOICES = 50
TOKENS = 1000


def test_a_client_that_does_not_read_costs_no_memory_and_misses_nothing(tmp_path: Path) -> None:
    body = {"prompt": "Hello", "max_tokens": TOKENS, "n": CHOICES}
    with programs.sim(tmp_path, "--sim-decode-step-seconds", "0.001") as program, line(program.url) as opened:
        streamed = json.dumps(body | {"stream": True}).encode()
        opened.send(request("POST", "/v1/completions", streamed, {"content-type": "application/json"}))
        wait_until(lambda: metric(program.url, "vllm:generation_tokens_total") == CHOICES * TOKENS, "it is generated")
        answer = opened.answer().body.decode()
        whole = ask(program.url, "POST", "/v1/completions", body).json()
    events = [json.loads(event.removeprefix("data: ")) for event in answer.split("\n\n") if event.startswith("data: {")]
    assert len(events) < CHOICES * TOKENS / 2, "what was not read was put together"
    texts = ["" for _ in range(CHOICES)]
    for event in events:
        texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert texts == [choice["text"] for choice in whole["choices"]]
    ends = Counter(event["choices"][0]["finish_reason"] for event in events)
    assert ends["length"] == CHOICES
