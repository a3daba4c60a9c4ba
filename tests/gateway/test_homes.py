"""What only one replica knows is asked of that replica."""

import itertools
import json

import pytest
import wire
from scripted import END, STREAM, Asked, Engines, Peer, event, whole

RESPONSES = "/v1/responses"
_numbers = itertools.count(1)


def store(peer: Peer, asked: Asked) -> None:
    """Answer as an engine that makes and keeps responses."""
    if asked.method == "GET" or asked.target.endswith("/cancel"):
        wanted = asked.target.split("/")[3].partition("?")[0]
        if wanted == "resp_unknown":
            peer.send(whole(404, {"error": {"message": "Response with id 'resp_unknown' not found."}}))
        else:
            peer.send(whole(200, {"id": wanted, "object": "response"}))
        return
    response = {"id": f"resp_{next(_numbers):x}", "object": "response", "status": "completed"}
    if json.loads(asked.body).get("stream"):
        created, completed = ({"type": f"response.{what}", "response": response} for what in ("created", "completed"))
        peer.send(STREAM, event(created), event(completed), END)
    else:
        peer.send(whole(200, response))


@pytest.fixture(autouse=True)
def scripts(engines: Engines) -> None:
    for engine in engines:
        engine.script = store


def made(url: str, **fields: object) -> tuple[str, str | None]:
    """A new response's id, and who made it."""
    answer = wire.ask(url, "POST", RESPONSES, {"input": "x", **fields})
    assert answer.status == 200
    text = answer.body.decode()
    return text[text.index("resp_") :].partition('"')[0], answer.replica


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_is_found_where_it_was_made(url: str, stream: bool) -> None:
    for _ in range(6):
        response, replica = made(url, stream=stream)
        for _ in range(3):
            assert wire.ask(url, "GET", f"{RESPONSES}/{response}").replica == replica
            assert wire.ask(url, "GET", f"{RESPONSES}/{response}?stream=false").replica == replica
            assert wire.ask(url, "POST", f"{RESPONSES}/{response}/cancel").replica == replica


def test_a_conversation_stays_where_it_began(url: str) -> None:
    response, replica = made(url)
    for stream in (False, True, False, True):
        response, again = made(url, previous_response_id=response, stream=stream)
        assert again == replica


def test_an_unknown_response_is_asked_of_any_replica(url: str) -> None:
    """It may have been made before the gateway was restarted."""
    answers = [wire.ask(url, "GET", f"{RESPONSES}/resp_unknown") for _ in range(4)]
    assert {answer.replica for answer in answers} == {"0", "1"}
    assert {made(url, previous_response_id="resp_unknown")[1] for _ in range(4)} == {"0", "1"}
