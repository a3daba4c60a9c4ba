"""The metrics have vLLM's names and mean what they say."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import programs
from programs import Program, wait_until
from sim.scrape import Growth, metric
from wire import ask, line, request

ENGINE = {"engine": "0", "model_name": "demo/model"}
PROMPT = "The same long prompt for everybody. " * 20


@contextmanager
def unanswered(url: str, count: int) -> Iterator[None]:
    """So many requests that are under way."""
    body = json.dumps({"prompt": "Hello", "max_tokens": 1000}).encode()
    asked = request("POST", "/v1/completions", body, {"content-type": "application/json"})
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(line(url)).send(asked)
        yield


def test_running_and_waiting_add_up(tmp_path: Path) -> None:
    slow = ("--sim-decode-step-seconds", "0.1")
    with programs.sim(tmp_path, "--max-num-seqs", "2", *slow) as program, unanswered(program.url, 5):
        url = program.url
        wait_until(lambda: metric(url, "vllm:num_requests_waiting", **ENGINE) == 3, "three wait")
        assert metric(url, "vllm:num_requests_running", **ENGINE) == 2
        assert metric(url, "vllm:num_requests_waiting_by_reason", reason="capacity") == 3
        assert 0 < metric(url, "vllm:kv_cache_usage_perc") < 0.01


def test_a_client_that_leaves_frees_its_place(tmp_path: Path) -> None:
    with programs.sim(tmp_path, "--sim-decode-step-seconds", "0.1") as program:
        url = program.url
        with unanswered(url, 3):
            wait_until(lambda: metric(url, "vllm:num_requests_running") == 3, "three run")
        wait_until(lambda: metric(url, "vllm:num_requests_running") == 0, "none runs")
        assert metric(url, "vllm:kv_cache_usage_perc") == 0
        assert metric(url, "vllm:request_success_total", finished_reason="abort") == 0
        assert program.output().count("aborted") == 3


def test_a_repeated_prompt_hits_the_prefix_cache(sim: Program) -> None:
    growth = Growth(sim.url)
    body = {"prompt": PROMPT, "max_tokens": 2}
    first, second = (ask(sim.url, "POST", "/v1/completions", body).json()["usage"] for _ in range(2))
    count = first["prompt_tokens"]
    cached = (count - 1) // 16 * 16
    assert first["prompt_tokens_details"] == {"cached_tokens": 0}
    assert second["prompt_tokens_details"] == {"cached_tokens": cached}
    assert growth("vllm:prefix_cache_queries_total") == 2 * count
    assert growth("vllm:prefix_cache_hits_total") == cached
    assert growth("vllm:prompt_tokens_cached_total") == cached


def test_a_salt_keeps_prefixes_apart(sim: Program) -> None:
    for salt in ("one", "two"):
        body = {"prompt": PROMPT, "max_tokens": 2, "cache_salt": salt}
        usage = ask(sim.url, "POST", "/v1/completions", body).json()["usage"]
        assert usage["prompt_tokens_details"] == {"cached_tokens": 0}


def test_tokens_and_requests_are_counted(sim: Program) -> None:
    growth = Growth(sim.url)
    usages = [
        ask(sim.url, "POST", "/v1/completions", {"prompt": "Hello", "max_tokens": 5, "stop": stop}).json()["usage"]
        for stop in (None, "is")
    ]
    total = sum(usage["completion_tokens"] for usage in usages)
    assert growth("vllm:prompt_tokens_total", **ENGINE) == sum(usage["prompt_tokens"] for usage in usages)
    assert growth("vllm:generation_tokens_total", **ENGINE) == total
    assert growth("vllm:request_success_total", finished_reason="length") == 1
    assert growth("vllm:request_success_total", finished_reason="stop") == 1
    for name in ("e2e_request_latency_seconds", "time_to_first_token_seconds", "request_queue_time_seconds"):
        assert growth(f"vllm:{name}_count", **ENGINE) == 2
    assert growth("vllm:inter_token_latency_seconds_count") == total - 2
    assert growth("vllm:iteration_tokens_total_count") == total
    assert growth("vllm:request_generation_tokens_sum") == total


def test_the_cache_tells_its_sizes(sim: Program) -> None:
    assert metric(sim.url, "vllm:cache_config_info", block_size="16", kv_cache_size_tokens=str(32768 * 16)) == 1


def test_http_requests_are_counted_by_route_and_class_of_status(sim: Program) -> None:
    growth = Growth(sim.url)
    ask(sim.url, "POST", "/v1/completions", {"prompt": "Hello"})
    ask(sim.url, "POST", "/v1/completions", {"prompt": []})
    ask(sim.url, "GET", "/nowhere")
    labels = {"method": "POST", "handler": "/v1/completions"}
    assert growth("http_requests_total", status="2xx", **labels) == 1
    assert growth("http_requests_total", status="4xx", **labels) == 1
    assert growth("http_requests_total", handler="none", method="GET", status="4xx") == 1
    assert growth("http_request_duration_seconds_count", **labels) == 2


def test_the_adapters_at_work_are_named(sim: Program) -> None:
    assert ask(sim.url, "POST", "/pause?mode=keep").status == 200
    body = json.dumps({"model": "first", "prompt": "Hello", "max_tokens": 2}).encode()
    with line(sim.url) as opened:
        opened.send(request("POST", "/v1/completions", body, {"content-type": "application/json"}))
        wait_until(lambda: metric(sim.url, "vllm:num_requests_waiting") == 1, "it waits")
        assert metric(sim.url, "vllm:lora_requests_info", waiting_lora_adapters="first", max_lora="1") > 0
        assert ask(sim.url, "POST", "/resume").status == 200
        assert opened.answer().status == 200


def test_the_process_is_measured(sim: Program) -> None:
    assert metric(sim.url, "process_resident_memory_bytes") > 1e6


def test_the_engines_metrics_can_be_off(tmp_path: Path) -> None:
    with programs.sim(tmp_path, "--disable-log-stats") as program:
        text = ask(program.url, "GET", "/metrics").body
    assert b"vllm:" not in text
    assert b"process_" in text


def test_the_load_is_zero_unless_it_is_tracked(tmp_path: Path) -> None:
    with programs.sim(tmp_path, "--sim-fault", "hung") as program, unanswered(program.url, 1):
        wait_until(lambda: metric(program.url, "vllm:num_requests_waiting") == 1, "one waits")
        assert ask(program.url, "GET", "/load").json() == {"server_load": 0}
