"""The liveness probe and the preStop hook, at the real engine."""

import contextlib
import json
import signal
import time
from pathlib import Path

import pods
import programs
import psutil
import pytest
import real_engine
from ports import free_port
from programs import wait_until
from wire import Line, ask, line, request

pytestmark = pytest.mark.vllm

TRACKED = "--enable-server-load-tracking"
STOP = ("pre-stop", "--drain-timeout-seconds", "120", "--settle-seconds", "0")
HANG_SECONDS = 5


def stream(opened: Line, tokens: int) -> None:
    """Begin a streamed answer."""
    body = {"prompt": "a", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    opened.send(request("POST", "/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}))


def what_has_come(opened: Line) -> bytes:
    """The bytes that wait on this side of the connection."""
    opened.socket.settimeout(0)
    data = b""
    with contextlib.suppress(BlockingIOError):
        while more := opened.socket.recv(1_000_000):
            data += more
    return data


def load_of(url: str) -> int:
    return int(ask(url, "GET", "/load").json()["server_load"])


def running(url: str) -> float:
    lines = ask(url, "GET", "/metrics").body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))


def test_a_frozen_core_is_found_and_a_working_one_is_waited_for(tmp_path: Path) -> None:
    with real_engine.engine(tmp_path, TRACKED) as program:
        url, env = program.url, {"TMPDIR": str(tmp_path)}
        place = ("--port", url.rpartition(":")[2])
        look = ("live", "--hang-timeout-seconds", str(HANG_SECONDS), *place)
        (core,) = (one for one in psutil.Process(program.pid).children() if "EngineCore" in one.name())

        def is_alive() -> bool:
            return pods.engine_life(*look, env=env).returncode == 0

        def is_found_to_hang() -> None:
            assert is_alive()
            wait_until(lambda: not is_alive(), "it is found to hang", HANG_SECONDS + 15)
            assert programs.answers(url + "/health")
            said = pods.engine_life(*look, env=env).stdout
            assert said.startswith("the engine hangs: it has requests (1), and its core did nothing for ")
            assert pods.engine_life(*STOP, *place, env=env).stdout == said

        with line(url) as opened:  # frozen in its work
            stream(opened, 1500)
            opened.read_until(b"data: {")
            core.send_signal(signal.SIGSTOP)
            assert running(url) == 1
            is_found_to_hang()
            core.send_signal(signal.SIGCONT)
            wait_until(is_alive, "it is alive once it goes on")
            assert pods.engine_life(*STOP, *place, env=env).stdout == "no request is under way\n"
            assert what_has_come(opened).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        core.send_signal(signal.SIGSTOP)  # frozen while it had nothing to do
        with line(url) as opened:
            stream(opened, 10)
            wait_until(lambda: load_of(url) == 1, "the request has come")
            assert running(url) == 0
            is_found_to_hang()
        core.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("said", ["", "Initializing a V1 LLM engine"], ids=["imports", "loads"])
def test_an_engine_that_does_not_listen_yet_ends_at_two_signals(tmp_path: Path, said: str) -> None:
    port = str(free_port())
    argv = [str(real_engine.vllm()), "serve", str(real_engine.model()), "--port", port, *real_engine.FLAGS, TRACKED]
    with (
        real_engine.environment() as variables,
        pods.pod(tmp_path) as pod,
        pod.container(argv, env=variables) as engine,
    ):
        wait_until(lambda: said in engine.program.output(), "it has come so far", real_engine.START_SECONDS)
        begun = time.monotonic()
        result = engine.engine_life(*STOP, "--port", port, env={"TMPDIR": str(tmp_path)})
        assert result.stdout.startswith("the engine does not listen yet: process ")
        if engine.main.is_running():
            engine.main.terminate()
        engine.program.wait()
        assert time.monotonic() - begun < 10
