"""What the real engine answers when it is whole, full, draining, told to stop, or dead: held against `samples/`.

The gateway decides by these texts and shapes, and its own tests read the same files. A sample that is missing is
recorded and the test fails once; to record anew, delete the files and run this again.
"""

import http.client
import itertools
import json
import signal
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import engine_samples
import programs
import psutil
import pytest
import real_engine

pytestmark = pytest.mark.vllm

SAMPLES = Path(__file__).parent / "samples"
VERBATIM = frozenset({"type", "status", "finish_reason", "stop_reason", "code", "object", "role", "event", "reason"})
"""Fields whose text is compared as it is; of others only that it is text. Errors' messages are compared too."""

Requests = Mapping[str, tuple[str, Mapping[str, object]]]
HELLO = [{"role": "user", "content": "hello"}]


def asking(tokens: int) -> Requests:
    """One request for each dialect, as a whole and as a stream, for an answer of so many tokens."""
    exact = {"temperature": 0, "ignore_eos": True}
    bodies: dict[str, tuple[str, dict[str, object]]] = {
        "chat": ("/v1/chat/completions", {"messages": HELLO, "max_tokens": tokens, **exact}),
        "completions": ("/v1/completions", {"prompt": "hello", "max_tokens": tokens, **exact}),
        "responses": ("/v1/responses", {"input": "hello", "max_output_tokens": tokens, "temperature": 0}),
        "messages": ("/v1/messages", {"messages": HELLO, "max_tokens": tokens, "temperature": 0}),
    }
    return {
        name + suffix: (path, {"model": real_engine.NAME, **body, "stream": bool(suffix)})
        for (name, (path, body)), suffix in itertools.product(bodies.items(), ("", "-stream"))
    }


MISTAKES: Requests = {
    "unknown-model": ("/v1/chat/completions", {"model": "nobody", "messages": HELLO}),
    "too-long": ("/v1/completions", {"model": real_engine.NAME, "prompt": "hello " * 4000}),
    "bad-value": ("/v1/completions", {"model": real_engine.NAME, "prompt": "hello", "max_tokens": "many"}),
    "unknown-route": ("/v1/embeddings", {"model": real_engine.NAME, "input": "hello"}),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One response as it came; `text` is what a sample file holds."""

    text: str

    def shape(self) -> object:
        """The answer without what differs each time: identifiers, times, counts, the words of the model."""
        head, _, body = self.text.partition("\n\n")
        status, *headers = head.split("\n")
        names = sorted(line.partition(":")[0] for line in headers)
        events = [[_shape_of_line(line) for line in event.split("\n")] for event in body.split("\n\n") if event]
        return [status, names, [event for event, _ in itertools.groupby(events)]]


def _shape_of_line(line: str) -> object:
    prefix, colon, rest = line.partition(": ") if line.startswith(("data: ", "event: ")) else ("", "", line)
    try:
        return prefix + colon, _shape(json.loads(rest), "")
    except ValueError:
        return line


def _shape(value: object, name: str) -> object:
    if isinstance(value, dict):
        return {key: _shape(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape for shape, _ in itertools.groupby(_shape(inner, name) for inner in value)]
    if isinstance(value, str):
        return value if name in VERBATIM or name == "message" else "text"
    return "number" if type(value) in (int, float) and name != "code" else value


def ask(url: str, path: str, body: bytes) -> Answer:
    """Send one request on a connection of its own and keep what comes, to its end or to where it is cut."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request("POST", path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        head = [f"HTTP/1.1 {response.status} {response.reason}"]
        head += [f"{name}: {value}" for name, value in response.getheaders() if name != "date"]
        try:
            content = response.read()
        except http.client.IncompleteRead as cut:
            content = cut.partial
            head.append("x-sample: the connection was cut here")
    finally:
        connection.close()
    events = content.decode().split("\n\n")
    return Answer("\n".join(head) + "\n\n" + "\n\n".join(_shortened(events)))


def _shortened(events: list[str]) -> Iterator[str]:
    """Of several events of the same shape in a row the first two and the last one."""
    for _, same in itertools.groupby(events, lambda event: [_shape_of_line(line) for line in event.split("\n")]):
        run = list(same)
        yield from run if len(run) <= 3 else [*run[:2], run[-1]]


def all_at_once(url: str, requests: Requests, meanwhile: Callable[[], None]) -> dict[str, Answer]:
    """Send all `requests` together, do something meanwhile, and return the answers."""
    with ThreadPoolExecutor(len(requests)) as pool:
        futures = {
            name: pool.submit(ask, url, path, json.dumps(body).encode()) for name, (path, body) in requests.items()
        }
        meanwhile()
        return {name: future.result() for name, future in futures.items()}


def one_by_one(url: str, requests: Requests) -> dict[str, Answer]:
    return {name: ask(url, path, json.dumps(body).encode()) for name, (path, body) in requests.items()}


def sequences(url: str, state: str) -> int:
    """How many sequences the engine says are `running` or `waiting`."""
    with urllib.request.urlopen(url + "/metrics", timeout=10) as response:
        for line in response.read().decode().splitlines():
            if line.startswith(f"vllm:num_requests_{state}{{"):
                return int(float(line.rsplit(" ", 1)[1]))
    raise AssertionError(f"{url}/metrics has no vllm:num_requests_{state}")


def compare(situation: str, answers: Mapping[str, Answer]) -> None:
    """Hold the answers against the samples; record the samples that are missing."""
    recorded = []
    for name, answer in answers.items():
        sample = SAMPLES / f"{situation}-{name}.txt"
        if sample.exists():
            assert answer.shape() == Answer(sample.read_text()).shape(), f"{sample.name}: now it is\n{answer.text}"
        else:
            sample.write_text(answer.text)
            recorded.append(sample.name)
    assert not recorded, f"recorded anew, look at them: {', '.join(recorded)}"


def test_the_answers_of_a_whole_engine_are_the_samples(tmp_path: Path) -> None:
    with real_engine.engine(tmp_path, env={"VLLM_SERVER_DEV_MODE": "1"}) as engine:
        answers = one_by_one(engine.url, asking(8)) | one_by_one(engine.url, MISTAKES)
        answers["bad-json"] = ask(engine.url, "/v1/chat/completions", b'{"model": "tiny", "messages": [}')
        recorded = {name: engine_samples.record(engine.url, name) for name in ("judged", "http")}
        differences = [line for name in recorded for line in engine_samples.differences(engine.url, name)]
    compare("whole", answers)
    assert not any(recorded.values()), f"recorded anew, look at them: {recorded}"
    assert not differences, "\n".join(differences)


@pytest.mark.parametrize(
    ("situation", "number"), [("aborted", signal.SIGTERM), ("dead", signal.SIGKILL)], ids=["told to stop", "killed"]
)
def test_the_last_answers_of_an_engine_core_are_the_samples(
    situation: str, number: signal.Signals, tmp_path: Path
) -> None:
    requests = asking(1500)
    with real_engine.engine(tmp_path) as engine:

        def end() -> None:
            programs.wait_until(lambda: sequences(engine.url, "running") == len(requests), "all requests run")
            core(engine).send_signal(number)

        compare(situation, all_at_once(engine.url, requests, end))


def core(engine: programs.Program) -> psutil.Process:
    """The process of an engine that computes; the other one speaks HTTP."""
    children = psutil.Process(engine.pid).children(recursive=True)
    return next(child for child in children if "EngineCore" in " ".join(programs.command_line(child)))


def test_the_answers_of_a_full_engine_and_then_of_a_draining_one_are_the_samples(tmp_path: Path) -> None:
    holding = {"long": asking(1900)["chat"], "short": asking(200)["chat"]}
    with real_engine.engine(tmp_path, "--max-num-queued-reqs", "2", "--shutdown-timeout", "60") as engine:

        def meanwhile() -> None:
            programs.wait_until(lambda: sequences(engine.url, "running") == 2, "both requests run")
            compare("full", one_by_one(engine.url, asking(8)))
            programs.wait_until(lambda: sequences(engine.url, "running") == 1, "the short request is over")
            engine.signal(signal.SIGTERM)
            programs.wait_until(lambda: "stopping engine client" in engine.output(), "the engine drains")
            compare("draining", one_by_one(engine.url, asking(8)))

        all_at_once(engine.url, holding, meanwhile)
