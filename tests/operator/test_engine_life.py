"""The liveness probe and the preStop hook, as programs, at simulated engines."""

import ast
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pods
import programs
import pytest
from ports import free_port
from programs import wait_until
from wire import ask, line, request

from dp_vllm_operator.in_pod import engine_life

TRACKED = "--enable-server-load-tracking"
HANG = ("live", "--hang-timeout-seconds", "3")
"""Two seconds of it are forgiven: probes come a little early or late."""
PERIOD_SECONDS = 0.3
"""Between probes, which take a tenth of a second of the CPU each."""
STOP = ("pre-stop", "--drain-timeout-seconds", "60", "--settle-seconds", "0.1")
Result = subprocess.CompletedProcess[str]


def port_of(program: programs.Program) -> str:
    return program.url.rpartition(":")[2]


def look(program: programs.Program, memory: Path) -> Result:
    return pods.engine_life(*HANG, "--port", port_of(program), env={"TMPDIR": str(memory)})


def stop(program: programs.Program, memory: Path) -> Result:
    return pods.engine_life(*STOP, "--port", port_of(program), env={"TMPDIR": str(memory)})


def becomes_dead(program: programs.Program, memory: Path) -> str:
    """What the probe says once it fails."""
    seen: list[Result] = []

    def failed() -> bool:
        seen.append(look(program, memory))
        return seen[-1].returncode != 0

    wait_until(failed, "the probe fails", every=PERIOD_SECONDS)
    assert seen[-1].returncode == 1
    assert seen[-1].stderr == ""
    return seen[-1].stdout


def stays_alive(program: programs.Program, memory: Path) -> None:
    """The probe does not fail for longer than the hang timeout."""
    end = time.monotonic() + 2.5

    def passed() -> bool:
        result = look(program, memory)
        assert (result.returncode, result.stdout, result.stderr) == (0, "alive\n", "")
        return time.monotonic() > end

    wait_until(passed, "the hang timeout has passed", every=PERIOD_SECONDS)


@contextlib.contextmanager
def a_request(
    program: programs.Program, prompt: str = "Hello", tokens: int = 10_000, mark: bytes = b"200 OK"
) -> Iterator[None]:
    """A streamed request that is under way while the block runs."""
    body = json.dumps({"prompt": prompt, "max_tokens": tokens, "stream": True}).encode()
    with line(program.url) as opened:
        opened.send(request("POST", "/v1/completions", body, {"content-type": "application/json"}))
        if mark:
            opened.read_until(mark)
        else:
            wait_until(lambda: load_of(program) == 1, "it has come")
        yield


def load_of(program: programs.Program) -> int:
    return int(ask(program.url, "GET", "/load").json()["server_load"])


def counters(program: programs.Program) -> dict[str, float]:
    lines = ask(program.url, "GET", "/metrics").body.decode().splitlines()
    return {line.partition("{")[0]: float(line.split()[-1]) for line in lines if line.startswith("vllm:")}


@pytest.mark.parametrize("name", ["engine_life.py", "download.py"])
def test_every_python_from_3_9_on_reads_the_programs(name: str) -> None:
    ast.parse((pods.IN_POD / name).read_text(), feature_version=(3, 9))


# The probe


def test_an_idle_engine_is_alive(tmp_path: Path) -> None:
    with programs.sim(tmp_path, TRACKED) as program:
        stays_alive(program, tmp_path)


def test_a_working_engine_is_alive(tmp_path: Path) -> None:
    with programs.sim(tmp_path, TRACKED) as program, a_request(program):
        stays_alive(program, tmp_path)
        assert load_of(program) == 1


def test_one_long_prefill_is_no_hang(tmp_path: Path) -> None:
    slow = ("--sim-prefill-tokens-per-second", "64", "--max-num-batched-tokens", "32")
    with programs.sim(tmp_path, TRACKED, *slow) as program, a_request(program, "word " * 5000, 1, mark=b""):
        before = counters(program)
        stays_alive(program, tmp_path)
        after = counters(program)
        assert after["vllm:iteration_tokens_total_count"] == before["vllm:iteration_tokens_total_count"]
        assert after["vllm:kv_cache_usage_perc"] > before["vllm:kv_cache_usage_perc"]


def test_an_engine_whose_core_stands_still_is_to_be_restarted(tmp_path: Path) -> None:
    with programs.sim(tmp_path, TRACKED) as program, a_request(program):
        assert ask(program.url, "POST", "/sim/fault", b"hung").status == 200
        assert look(program, tmp_path).returncode == 0
        said = becomes_dead(program, tmp_path)
        assert said.startswith("the engine hangs: it has requests (1), and its core did nothing for ")
        assert ask(program.url, "GET", "/health").status == 200
        assert stop(program, tmp_path).stdout == said, "its requests will never end, so the hook does not wait for them"
        assert ask(program.url, "DELETE", "/sim/fault").status == 200
        wait_until(lambda: look(program, tmp_path).returncode == 0, "it is alive once the core goes on")


def test_a_core_whose_requests_wait_for_their_clients_is_alive(tmp_path: Path) -> None:
    fault = {"kind": "hang-stream", "after": 3, "count": 1}
    with programs.sim(tmp_path, TRACKED) as program:
        assert ask(program.url, "POST", "/sim/fault", fault).status == 200
        with a_request(program, tokens=20):
            wait_until(lambda: counters(program)["vllm:num_requests_running"] == 0, "the core is done")
            before = counters(program)["vllm:iteration_tokens_total_count"]

            def was_asked() -> bool:
                assert look(program, tmp_path).returncode == 0
                return counters(program)["vllm:iteration_tokens_total_count"] > before

            wait_until(was_asked, "the core is asked for one token more")
            stays_alive(program, tmp_path)
            assert load_of(program) == 1


@pytest.mark.parametrize("path", ["/sleep?level=0&mode=keep", "/pause?mode=keep"])
def test_an_engine_that_was_told_to_stand_still_is_alive(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    with programs.sim(tmp_path, TRACKED) as program, a_request(program):
        assert ask(program.url, "POST", path).status == 200
        stays_alive(program, tmp_path)
        assert load_of(program) == 1


@pytest.mark.parametrize("flags", [(), (TRACKED, "--disable-log-stats")], ids=["no load", "no metrics"])
def test_without_load_or_metrics_health_decides(tmp_path: Path, flags: tuple[str, ...]) -> None:
    with programs.sim(tmp_path, *flags) as program, a_request(program):
        assert ask(program.url, "POST", "/sim/fault", b"hung").status == 200
        stays_alive(program, tmp_path)
        assert ask(program.url, "POST", "/sim/fault", {"kind": "engine-dead", "seconds": 60}).status == 200
        assert look(program, tmp_path).stdout == "the engine is dead: it answers /health 503\n"


def test_a_key_changes_nothing(tmp_path: Path) -> None:
    with programs.sim(tmp_path, TRACKED, "--sim-fault", "hung", "--api-key", "secret") as program:
        headers = {"content-type": "application/json", "authorization": "Bearer secret"}
        with line(program.url) as opened:
            opened.send(request("POST", "/v1/completions", b'{"prompt": "Hello"}', headers))
            assert becomes_dead(program, tmp_path).startswith("the engine hangs")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_server_that_is_gone_is_to_be_restarted_at_once(tmp_path: Path, host: str) -> None:
    with programs.sim(tmp_path, TRACKED, host=host) as program:
        assert look(program, tmp_path).stdout == "alive\n"
        program.signal(signal.SIGTERM)
        program.wait()
        result = look(program, tmp_path)
        assert result.returncode == 1
        assert result.stdout == f"the engine is gone: nothing listens on port {port_of(program)}\n"


def test_a_server_that_does_not_answer_is_given_time(tmp_path: Path) -> None:
    with programs.sim(tmp_path, TRACKED) as program:
        program.signal(signal.SIGSTOP)
        begun = time.monotonic()
        assert look(program, tmp_path).returncode == 0
        assert time.monotonic() - begun < 20, "the kubelet waits no longer"
        assert becomes_dead(program, tmp_path).startswith("the engine did not answer for ")
        program.signal(signal.SIGCONT)
        assert look(program, tmp_path).returncode == 0


def test_what_was_kept_is_forgotten_if_it_is_not_to_be_trusted(tmp_path: Path) -> None:
    with programs.sim(tmp_path, TRACKED, "--sim-fault", "hung") as program, a_request(program, mark=b""):
        becomes_dead(program, tmp_path)
        (kept,) = tmp_path.glob("dp-vllm-*.json")
        text = kept.read_text()
        for damaged in damages(text):
            kept.write_text(damaged)
            assert look(program, tmp_path).returncode == 0, damaged
        kept.write_text(text)
        assert look(program, tmp_path).returncode == 1


def damages(text: str) -> Iterator[str]:
    yield from ("", text[:20], "[1]", '{"engine": "x"}', "\0" * 1000)
    was: dict[str, Any] = json.loads(text)
    yield json.dumps(was | {"at": "soon"})
    yield json.dumps(was | {"since": None})
    yield json.dumps(was | {"at": was["at"] + 1e6})
    yield json.dumps(was | {"at": was["at"] - 91, "since": was["since"] - 91})
    yield json.dumps(was | {"engine": "of another boot"})


def test_where_nothing_can_be_kept_it_says_so_and_does_not_fail(tmp_path: Path) -> None:
    with programs.sim(tmp_path, TRACKED) as program:
        result = look(program, tmp_path / "missing")
        assert result.returncode == 0
        assert "cannot be kept" in result.stderr


# The hook


def test_an_idle_engine_may_end_at_once(tmp_path: Path) -> None:
    with programs.sim(tmp_path, TRACKED) as program:
        begun = time.monotonic()
        settled = ("pre-stop", "--drain-timeout-seconds", "60", "--port", port_of(program))
        assert pods.engine_life(*settled, env={"TMPDIR": str(tmp_path)}).stdout == "no request is under way\n"
        assert 5 <= time.monotonic() - begun < 15, "gateways have five seconds to see that it is leaving"


def test_it_waits_for_the_last_byte_of_a_stream(tmp_path: Path) -> None:
    slow = ("--sim-decode-step-seconds", "0.02")
    with programs.sim(tmp_path, TRACKED, *slow) as program, line(program.url) as opened:
        body = json.dumps({"prompt": "Hello", "max_tokens": 100, "stream": True}).encode()
        opened.send(request("POST", "/v1/completions", body, {"content-type": "application/json"}))
        opened.read_until(b"data: {")
        assert stop(program, tmp_path).stdout == "no request is under way\n"
        opened.socket.settimeout(0)
        assert opened.socket.recv(1_000_000).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_without_load_tracking_the_queues_decide(tmp_path: Path) -> None:
    with programs.sim(tmp_path, "--sim-decode-step-seconds", "0.02") as program, a_request(program, tokens=60):
        assert load_of(program) == 0
        assert stop(program, tmp_path).stdout == "no request is under way\n"
        assert counters(program)["vllm:num_requests_running"] == 0
        assert counters(program)["vllm:generation_tokens_total"] == 60


def test_it_waits_no_longer_than_the_drain_timeout(tmp_path: Path) -> None:
    with programs.sim(tmp_path, TRACKED) as program, a_request(program):
        begun = time.monotonic()
        short = ("pre-stop", "--drain-timeout-seconds", "2", "--settle-seconds", "0", "--port", port_of(program))
        result = pods.engine_life(*short, env={"TMPDIR": str(tmp_path)})
        assert result.stdout == "1 requests are still under way, and are cut now\n"
        assert 1 <= time.monotonic() - begun < 10


def test_outside_of_a_pod_no_process_is_told_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    port = str(free_port())
    result = pods.engine_life(*STOP, "--port", port, env={"TMPDIR": str(tmp_path)})
    assert "this is no pod" in result.stdout


# In a pod


def sim(port: int, *flags: str) -> list[str]:
    return programs.python("-m", "dp_vllm.sim", "m", "--host", "127.0.0.1", "--port", str(port), TRACKED, *flags)


def is_up(port: int) -> bool:
    return programs.answers(f"http://127.0.0.1:{port}/health")


def test_an_engine_that_still_loads_is_told_to_end_twice(tmp_path: Path) -> None:
    port, env = free_port(), {"TMPDIR": str(tmp_path)}
    with (
        pods.pod(tmp_path) as pod,
        pod.container(["sleep", "600"]) as sidecar,
        pod.container(sim(port, "--sim-load-seconds", "600")) as engine,
    ):
        wait_until(lambda: "Starting to load" in engine.program.output(), "it loads")
        begun = time.monotonic()
        result = engine.engine_life(*STOP, "--port", str(port), env=env)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith("the engine does not listen yet: process ")
        wait_until(lambda: "swallowed" in engine.program.output(), "it swallows the first signal")
        engine.main.terminate()
        engine.program.wait()
        assert time.monotonic() - begun < 5
        assert sidecar.main.is_running()


def test_a_new_process_is_judged_anew(tmp_path: Path) -> None:
    port, env = free_port(), {"TMPDIR": str(tmp_path)}
    url, look_at = f"http://127.0.0.1:{port}", (*HANG, "--port", str(port))
    body = request("POST", "/v1/completions", b'{"prompt": "Hello"}', {"content-type": "application/json"})

    @contextlib.contextmanager
    def hung(pod: pods.Pod) -> Iterator[pods.Container]:
        with pod.container(sim(port, "--sim-fault", "hung")) as engine:
            wait_until(lambda: is_up(port), "it serves")
            with line(url) as opened:
                opened.send(body)
                wait_until(lambda: ask(url, "GET", "/load").json()["server_load"] == 1, "it has a request")
                yield engine

    with pods.pod(tmp_path) as pod:
        with hung(pod) as engine:
            wait_until(lambda: engine.engine_life(*look_at, env=env).returncode == 1, "it is found to hang")
        with hung(pod) as engine:
            assert engine.engine_life(*look_at, env=env).stdout == "alive\n", "it is seen for the first time"


def test_an_idle_engine_in_a_pod_is_not_told_to_end_by_the_hook(tmp_path: Path) -> None:
    port, env = free_port(), {"TMPDIR": str(tmp_path)}
    with pods.pod(tmp_path) as pod, pod.container(sim(port)) as engine:
        wait_until(lambda: is_up(port), "it serves")
        assert engine.engine_life(*STOP, "--port", str(port), env=env).stdout == "no request is under way\n"
        assert is_up(port)


# How it is called


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "required: command"),
        (("live",), "required: --hang-timeout-seconds"),
        (("pre-stop", "--drain-timeout-seconds", "soon"), "invalid float value: 'soon'"),
    ],
)
def test_a_wrong_call_is_explained(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    env: Mapping[str, str] = {"TMPDIR": str(tmp_path), "PATH": os.environ["PATH"]}
    result = pods.engine_life(*arguments, env=env)
    assert result.returncode == 2
    assert said in result.stderr


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "1e400", "x", "9" * 5000])
def test_what_is_no_number_of_requests_is_none(value: str) -> None:
    assert engine_life.value_of(f'vllm:num_requests_running{{engine="0"}} {value}') == 0
    assert engine_life.value_of('vllm:num_requests_running{engine="0"} 2.0') == 2
