"""More clients than a process may have open files for."""

import contextlib
import resource
from pathlib import Path

import programs
import scripted
import wire
from ports import free_port

from dp_vllm_gateway.crowd import SPARE_FILES

FILES = SPARE_FILES + 40
"""That the gateway may have open: those it keeps for itself, and two for each of 20 clients."""


def test_a_client_too_many_is_told_to_come_again_and_the_others_are_served(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    flags = ["--host", "127.0.0.1", "--port", str(port), "--replica"]
    with scripted.engine() as engine:
        argv = ["prlimit", f"--nofile={FILES}", *programs.python("-m", "dp_vllm_gateway", *flags, engine.url)]
        with programs.running(argv, tmp_path / "log", url=url, ready=lambda: programs.answers(url + "/ready")):
            with contextlib.ExitStack() as stack:
                lines = [stack.enter_context(wire.line(url)) for _ in range(20)]
                assert [ask(line).status for line in lines] == [200] * 20
                refused = wire.complete(url)
                assert (refused.status, refused.error["code"]) == (503, "too_many_connections")
                assert int(refused.headers["retry-after"]) > 0
                assert [ask(line).status for line in lines] == [200] * 20, "those that are served stay so"
            programs.wait_until(lambda: wire.complete(url).status == 200, "there is room again")


def ask(line: wire.Line) -> wire.Answer:
    line.send(wire.request("POST", "/v1/completions", b'{"prompt": "x"}'))
    return line.answer("POST")


def test_the_gateway_takes_as_many_open_files_as_it_is_allowed(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with scripted.engine() as engine, scripted.gateway(tmp_path, [engine]) as program:
        soft, _ = resource.prlimit(program.pid, resource.RLIMIT_NOFILE)
        assert soft == hard
