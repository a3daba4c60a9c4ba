"""Answers that speak for all replicas as if they were one."""

import json
from pathlib import Path
from typing import Any

import programs
import pytest
import scripted
from msgspec import DecodeError
from ports import free_port
from scripted import Asked, Engines, Peer, Script
from wire import ask

from dp_vllm_gateway.fetch import MOST_BYTES
from dp_vllm_gateway.merged import MOST_LOAD, document_of, load_of, models_of


def answering(**answers: Any) -> Script:
    """A script with an answer for the last part of each path."""

    def script(peer: Peer, asked: Asked) -> None:
        answer = answers.get(asked.target.split("?")[0].split("/")[-1].replace(".", "_"))
        peer.send(scripted.whole(200 if answer is not None else 404, answer))

    return script


def listed(*ids: str, of: str) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name, "owned_by": of, "parent": None} for name in ids]}


PATHS = {
    "/v1/chat/completions": {"post": {"summary": "Chat"}},
    "/v1/responses/{response_id}": {"get": {"summary": "Retrieve"}},
    "/collective_rpc": {"post": {"summary": "Rpc"}},
    "/fault_tolerance/status": {"get": {"summary": "Status"}},
}
OWN = ("/v1/models/{model}", "/ready")
DOCUMENT = {"openapi": "3.1.0", "servers": [{"url": "/inner"}], "paths": PATHS}


FIRST = answering(models=listed("m", "sql", of="first"), load={"server_load": 3}, openapi_json=DOCUMENT)
SECOND = answering(models=listed("m", "law", of="second"), load={"server_load": 4}, openapi_json={})


@pytest.fixture(autouse=True)
def scripts(engines: Engines) -> None:
    for engine, script in zip(engines, (FIRST, SECOND), strict=True):
        engine.script = script


def test_each_model_is_listed_once_as_the_first_replica_tells_of_it(url: str) -> None:
    answer = ask(url, "GET", "/v1/models")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    models = {model["id"]: model["owned_by"] for model in answer.json()["data"]}
    assert models == {"m": "first", "sql": "first", "law": "second"}
    assert answer.json()["object"] == "list"
    nothing = ask(url, "HEAD", "/v1/models")
    assert (nothing.status, nothing.body) == (200, b"")
    assert nothing.headers["content-length"] == answer.headers["content-length"]


def test_the_load_is_the_sum_over_the_replicas(url: str) -> None:
    assert ask(url, "GET", "/load").json() == {"server_load": 7}


def test_the_document_is_the_endpoints_own(engines: Engines, tmp_path: Path) -> None:
    with scripted.gateway(tmp_path, engines, "--root-path", "/inner/llm/") as program:
        for path in ("/openapi.json", "/inner/llm/openapi.json"):
            document = ask(program.url, "GET", path).json()
            assert document["servers"] == [{"url": "/inner/llm"}]
            assert set(document["paths"]) == {"/v1/chat/completions", "/v1/responses/{response_id}", *OWN}
            assert document["openapi"] == "3.1.0"


def test_a_replica_that_fails_is_left_out(url: str, engines: Engines) -> None:
    one, _ = engines
    one.script = scripted.then_closing(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{")
    assert [model["id"] for model in ask(url, "GET", "/v1/models").json()["data"]] == ["m", "law"]
    one.script = scripted.saying(scripted.whole(500, {"error": "no"}))
    assert ask(url, "GET", "/load").json() == {"server_load": 4}
    odd: Any
    for odd in (b"<html>", [], {"data": [{}], "server_load": "x", "paths": 5}, b"[" * 100_000):
        one.script = scripted.saying(scripted.whole(200, odd))
        assert [model["id"] for model in ask(url, "GET", "/v1/models").json()["data"]] == ["m", "law"], odd
        assert ask(url, "GET", "/v1/models/law").status == 200
        assert ask(url, "GET", "/load").json() == {"server_load": 4}
        assert ask(url, "GET", "/openapi.json").json()["paths"].keys() == set(OWN)


def test_where_all_fail_the_first_ones_words_are_passed_on(url: str, engines: Engines) -> None:
    one, two = engines
    one.script = two.script = scripted.saying(scripted.whole(401, {"error": "Unauthorized"}))
    answer = ask(url, "GET", "/v1/models")
    assert (answer.status, answer.json()) == (401, {"error": "Unauthorized"})
    one.script = two.script = scripted.then_closing()
    answer = ask(url, "GET", "/v1/models")
    assert (answer.status, answer.error["code"]) == (502, "upstream_reset")
    one.script = two.script = scripted.saying(scripted.whole(200, b"<html>"))
    assert ask(url, "GET", "/v1/models").status == 502


def test_without_a_replica_there_is_nothing_to_merge(tmp_path: Path) -> None:
    with programs.gateway(tmp_path, "--replica", f"http://127.0.0.1:{free_port()}") as program:
        for path in ("/v1/models", "/load", "/openapi.json"):
            answer = ask(program.url, "GET", path)
            assert (answer.status, answer.error["code"]) == (503, "no_ready_replica")
            assert "retry-after" in answer.headers


def test_the_replicas_are_sent_their_key_and_nothing_that_changes_their_answer(
    engines: Engines, tmp_path: Path
) -> None:
    with scripted.gateway(tmp_path, engines, "--api-key", "ours", "--replica-api-key", "theirs") as program:
        headers = {"authorization": "Bearer ours", "accept-encoding": "gzip", "range": "bytes=0-1"}
        assert ask(program.url, "GET", "/v1/models", headers=headers).status == 200
        asked = engines[0].asked[-1].headers
        assert asked["authorization"] == "Bearer theirs"
        assert not {"accept-encoding", "range"} & set(asked)
        assert ask(program.url, "GET", "/v1/models").status == 401
        assert ask(program.url, "GET", "/openapi.json").status == 200


def test_the_document_can_be_closed(engines: Engines, tmp_path: Path) -> None:
    with scripted.gateway(tmp_path, engines, "--disable-fastapi-docs") as program:
        assert ask(program.url, "GET", "/openapi.json").status == 404
        assert not engines[0].asked


@pytest.mark.parametrize("body", [b"[]", b'{"data": 5}', b'{"data": [{"id": 5}]}', b"", b'{"server_load": "x"}'])
def test_what_cannot_be_read_is_one_kind_of_error(body: bytes) -> None:
    failures = 0
    for merge in (models_of, load_of):
        try:
            merge([body])
        except DecodeError:
            failures += 1
    assert failures >= 1


@pytest.mark.parametrize("load", [-1, 0, 2**53 + 1, 2**64, 10**20, 10**400])
def test_no_load_is_too_large_for_the_sum(load: int) -> None:
    total = json.loads(load_of([b'{"server_load": %d}' % load, b'{"server_load": 3}']))["server_load"]
    assert 3 <= total <= 3 + MOST_LOAD


@pytest.mark.parametrize("odd", [b'{"paths": []}', b'{"paths": {"/x": 5}}', b'{"paths": {"/x": []}}', b"[]"])
def test_a_document_of_another_form_cannot_be_read(odd: bytes) -> None:
    with pytest.raises(DecodeError):
        document_of(odd, "", unsafe=False)


def test_with_unsafe_routes_allowed_the_document_names_them() -> None:
    document = json.loads(document_of(json.dumps(DOCUMENT).encode(), "", unsafe=True))
    assert set(document["paths"]) == {*PATHS, *OWN}
    assert "servers" not in document


def test_a_replica_that_sends_without_end_is_left_out(url: str, engines: Engines) -> None:
    engines[0].script = scripted.saying(scripted.whole(200, b" " * (MOST_BYTES + 1) + b'{"server_load": 3}'))
    assert ask(url, "GET", "/load").json() == {"server_load": 4}
