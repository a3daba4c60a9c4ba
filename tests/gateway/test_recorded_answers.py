"""What the gateway makes of the real engine's answers, as they were recorded from vLLM (`tests/vllm/samples`)."""

import itertools
import json
from pathlib import Path

import pytest
import scripted
import wire
from scripted import FINE, Asked, Engines, Peer

SAMPLES = Path(__file__).parents[1] / "vllm" / "samples"
PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
DIALECTS = sorted(PATHS)
ABORTED = ("aborted-chat", "aborted-completions", "aborted-messages")
"""Of a response vLLM says that it was completed: it cannot be told from one that was."""

_numbers = itertools.count()


def recorded(name: str) -> tuple[bytes, bytes]:
    """A sample's head and body."""
    head, _, body = (SAMPLES / f"{name}.txt").read_bytes().partition(b"\n\n")
    return head.replace(b"\n", b"\r\n") + b"\r\n\r\n", body


def say(engines: Engines, name: str) -> bytes:
    """Let the next request be answered with a sample, those after it well; the sample's body."""
    head, body = recorded(name)
    pieces = [body]
    if b"chunked" in head:
        pieces = [scripted.chunk(event + b"\n\n") for event in body.split(b"\n\n")[:-1]]
    if b"x-sample" in head or name.startswith("aborted-"):  # the connection was cut, or closed when the engine ended
        end = scripted.END if b"chunked" in head and b"x-sample" not in head else b""
        answers = iter([scripted.then_closing(head, *pieces, end)])
    else:
        answers = iter([scripted.saying(head, *pieces, scripted.END if b"chunked" in head else b"")])

    def next_answer(peer: Peer, asked: Asked) -> None:
        next(answers, FINE)(peer, asked)

    for engine in engines:
        engine.script = next_answer
    return body


def ask(url: str, dialect: str, **fields: object) -> wire.Answer:
    return wire.ask(url, "POST", PATHS[dialect], {"prompt": f"number {next(_numbers)}", **fields})


@pytest.mark.parametrize("name", [f"{dialect}{stream}" for dialect in DIALECTS for stream in ("", "-stream")])
def test_a_whole_answer_arrives_as_it_was(url: str, engines: Engines, name: str) -> None:
    body = say(engines, f"whole-{name}")
    answer = ask(url, name.partition("-")[0], stream=name.endswith("stream"))
    assert (answer.status, answer.body, answer.cut) == (200, body, False)


@pytest.mark.parametrize("name", ["bad-json", "bad-value", "too-long", "unknown-model", "unknown-route"])
def test_an_error_of_the_clients_arrives_as_it_was(url: str, engines: Engines, name: str) -> None:
    head, body = recorded(f"whole-{name}")
    say(engines, f"whole-{name}")
    answer = ask(url, "chat")
    assert (answer.status, answer.body) == (int(head.split()[1]), body)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", ["full", "draining", "full-stream", "draining-stream", "dead", "aborted"])
def test_an_engine_that_cannot_is_passed_over(url: str, engines: Engines, kind: str, dialect: str) -> None:
    situation, _, stream = kind.partition("-")
    say(engines, f"{situation}-{dialect}{'-stream' if stream else ''}")
    answer = ask(url, dialect, stream=bool(stream))
    assert answer.status == 200
    if (kind, dialect) == ("aborted", "responses"):
        assert answer.json()["status"] == "completed"
        return
    assert answer.json()["choices"][0]["text"] == "fine"
    assert sorted(len(engine.asked) for engine in engines) == [1, 1]


@pytest.mark.parametrize(
    "name", sorted({f"{s}-{d}" for s in ("dead", "aborted") for d in PATHS} - {"aborted-responses"})
)
def test_a_stream_that_its_engine_gave_up_ends_with_an_error(url: str, engines: Engines, name: str) -> None:
    dialect = name.partition("-")[2]
    body = say(engines, f"{name}-stream")
    answer = ask(url, dialect, stream=True)
    assert (answer.status, answer.cut) == (200, False)
    *before, last = answer.body.decode().removesuffix("\n\n").split("\n\n")
    assert body.decode().startswith("\n\n".join(before))
    said = json.loads(last.partition("data: ")[2])
    match dialect:
        case "responses":
            assert said["type"] == "response.failed"
        case "messages":
            assert (said["type"], last.splitlines()[0]) == ("error", "event: error")
        case _:
            assert said["error"]["message"]
    assert "[DONE]" not in answer.body.decode()
