"""What the pod of `helm test` runs: a program that asks an endpoint for a streamed answer."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import programs
import pytest
import scripted
from chart.helm import Helm, of_kind, values
from ports import free_port
from scripted import END, STREAM, Engine, Script, event, whole


@pytest.fixture(scope="module")
def command(helm: Helm) -> list[str]:
    """The pod's, without the endpoint that it ends with."""
    made = helm.objects("--show-only=templates/tests/stream.yaml", *values(test__endpoint="http://x/v1"))
    python, *words, endpoint = of_kind(made, "Pod")["spec"]["containers"][0]["command"]
    assert (python, endpoint) == ("python3", "http://x/v1")
    return [sys.executable, *words]


@pytest.fixture
def engine() -> Iterator[Engine]:
    with scripted.engine() as engine:
        yield engine


def piece(text: str) -> bytes:
    return event({"choices": [{"delta": {"content": text}}]})


def asked(command: list[str], endpoint: str) -> Any:
    """What becomes of it where nobody waits for the endpoint."""
    return subprocess.run([*command, endpoint, "0"], capture_output=True, text=True, timeout=50)


def test_it_waits_for_the_endpoint_and_passes_its_answer_on(command: list[str], tmp_path: Path) -> None:
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}/v1"
    log = tmp_path / "log"
    with programs.running([*command, endpoint, "50"], log) as program:
        programs.wait_until(lambda: "waits: " in program.output(), "it waits")
        with programs.sim(tmp_path, model="org/m", port=port):
            assert program.wait() == 0, program.output()
    first, *answer, last = program.output().splitlines()[1:]
    assert first == f"org/m at {endpoint} says:"
    assert "".join(answer)
    assert int(last.removeprefix("streamed in ").removesuffix(" pieces")) > 2


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (scripted.saying(STREAM, piece("Yes"), END), "the answer has no end"),
        (scripted.saying(STREAM, event(b"[DONE]"), END), "the answer is empty"),
        (scripted.saying(STREAM, piece("Yes"), event({"error": {"message": "lost"}}), END), "lost"),
        (scripted.saying(whole(401, {"error": "no key"})), "401"),
        (scripted.then_closing(), "RemoteDisconnected"),
    ],
)
def test_no_whole_stream_is_a_failure(command: list[str], engine: Engine, script: Script, words: str) -> None:
    engine.script = script
    done = asked(command, f"{engine.url}/v1")
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_an_endpoint_that_never_comes_is_named(command: list[str]) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}/v1"
    done = asked(command, endpoint)
    assert done.returncode == 1
    assert f"{endpoint}: URLError" in done.stderr and "refused" in done.stderr
    assert "kubectl get dpm" in done.stderr
