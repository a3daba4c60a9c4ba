"""The simulated engine's answers have the shapes of the real one's, which lie in `tests/vllm/samples`."""

import itertools
import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import engine_samples
import programs
import pytest
from sim.scrape import metric
from wire import Answer, ask

SAMPLES = Path(__file__).parent.parent / "vllm" / "samples"
VERBATIM = frozenset({"type", "status", "finish_reason", "stop_reason", "code", "object", "role", "message"})
HELLO = [{"role": "user", "content": "hello"}]
FLAGS = ("--served-model-name", "tiny", "--max-model-len", "2048")
QUICK = ("--sim-decode-step-seconds", "0")
LONG = ("--sim-decode-step-seconds", "0.01")

MISTAKES: dict[str, tuple[str, Any]] = {
    "unknown-model": ("/v1/chat/completions", {"model": "nobody", "messages": HELLO}),
    "too-long": ("/v1/completions", {"model": "tiny", "prompt": "hello " * 4000}),
    "bad-value": ("/v1/completions", {"model": "tiny", "prompt": "hello", "max_tokens": "many"}),
    "unknown-route": ("/v1/embeddings", {"model": "tiny", "input": "hello"}),
    "bad-json": ("/v1/chat/completions", b'{"model": "tiny", "messages": [}'),
}


def asking(tokens: int) -> dict[str, tuple[str, Any]]:
    """One request for each dialect, whole and streamed."""
    bodies: dict[str, tuple[str, dict[str, Any]]] = {
        "chat": ("/v1/chat/completions", {"messages": HELLO, "max_tokens": tokens}),
        "completions": ("/v1/completions", {"prompt": "hello", "max_tokens": tokens}),
        "responses": ("/v1/responses", {"input": "hello", "max_output_tokens": tokens}),
        "messages": ("/v1/messages", {"messages": HELLO, "max_tokens": tokens}),
    }
    return {
        name + suffix: (path, {"model": "tiny", **body, "stream": bool(suffix)})
        for (name, (path, body)), suffix in itertools.product(bodies.items(), ("", "-stream"))
    }


def shape(status: int, media: str, body: str) -> object:
    """An answer without what differs each time; events of the same shape in a row are one."""
    events = [[shape_of_line(line) for line in event.split("\n")] for event in body.split("\n\n") if event]
    return [status, media, [event for event, _ in itertools.groupby(events)]]


def shape_of_line(line: str) -> object:
    prefix, colon, rest = line.partition(": ") if line.startswith(("data: ", "event: ")) else ("", "", line)
    try:
        return prefix + colon, shape_of(json.loads(rest), "")
    except ValueError:
        return line


def shape_of(value: Any, name: str) -> object:
    if isinstance(value, dict):
        if value.get("type") == "internal_error":  # the real one's message is an accident: a traceback of Pydantic's
            value = value | {"message": ""}
        return {key: shape_of(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [one for one, _ in itertools.groupby(shape_of(inner, name) for inner in value)]
    if isinstance(value, str):
        return value if name in VERBATIM else "text"
    return "number" if type(value) in (int, float) and name != "code" else value


def sample(name: str) -> object:
    head, _, body = (SAMPLES / f"{name}.txt").read_text().partition("\n\n")
    first, *headers = head.split("\n")
    media = next(line.partition(": ")[2] for line in headers if line.startswith("content-type"))
    return shape(int(first.split()[1]), media, body)


def compare(situation: str, answers: dict[str, Answer]) -> None:
    for name, answer in answers.items():
        got = shape(answer.status, answer.headers["content-type"], answer.body.decode())
        assert got == sample(f"{situation}-{name}"), name


def one_by_one(url: str, requests: dict[str, tuple[str, Any]]) -> dict[str, Answer]:
    return {
        name: ask(url, "POST", path, body, {"content-type": "application/json"})
        for name, (path, body) in requests.items()
    }


def all_at_once(url: str, meanwhile: Callable[[], None]) -> dict[str, Answer]:
    """Long requests, all under way when something happens."""
    requests = asking(1500)
    with ThreadPoolExecutor(len(requests)) as pool:
        futures = {name: pool.submit(ask, url, "POST", path, body) for name, (path, body) in requests.items()}
        programs.wait_until(lambda: metric(url, "vllm:num_requests_running") == len(requests), "all requests run")
        programs.wait_until(lambda: metric(url, "vllm:generation_tokens_total") > 100, "tokens come")
        meanwhile()
        return {name: future.result() for name, future in futures.items()}


def die(url: str) -> None:
    assert ask(url, "POST", "/sim/fault", {"kind": "engine-dead", "seconds": 1}).status == 200


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[programs.Program]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_SERVER_DEV_MODE", "1")
        with programs.sim(tmp_path_factory.mktemp("whole"), *FLAGS, *QUICK) as program:
            yield program


def test_answers_and_refusals_have_the_real_engines_shapes(whole: programs.Program) -> None:
    compare("whole", one_by_one(whole.url, asking(8) | MISTAKES))


@pytest.mark.parametrize("name", ["judged", "http"])
def test_requests_are_judged_as_by_the_real_engine(whole: programs.Program, name: str) -> None:
    differences = engine_samples.differences(whole.url, name)
    assert not differences, "\n".join(differences)


def test_answers_aborted_by_sigterm_have_the_real_engines_shapes(tmp_path: Path) -> None:
    with programs.sim(tmp_path, *FLAGS, *LONG) as program:
        compare("aborted", all_at_once(program.url, lambda: program.signal(signal.SIGTERM)))
        assert program.wait() == 0


def test_answers_of_a_dead_engine_have_the_real_engines_shapes(tmp_path: Path) -> None:
    with programs.sim(tmp_path, *FLAGS, *LONG) as program:
        answers = all_at_once(program.url, lambda: die(program.url))
        compare("dead", answers)
        assert answers["responses-stream"].cut
        assert ask(program.url, "GET", "/health").status == 503
        assert program.wait() == 1


@pytest.mark.parametrize(("situation", "fault"), [("full", "busy"), ("draining", "draining")])
def test_answers_of_a_full_and_a_draining_engine_have_the_real_engines_shapes(
    situation: str, fault: str, tmp_path: Path
) -> None:
    with programs.sim(tmp_path, *FLAGS, "--sim-fault", fault) as program:
        compare(situation, one_by_one(program.url, asking(8)))
