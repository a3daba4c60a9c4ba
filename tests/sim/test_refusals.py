"""Requests that are refused, and who is let in."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import programs
import pytest
from programs import Program
from wire import ask, line, request

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
KEYS = ("key-one", "key-two")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with programs.sim(tmp_path_factory.mktemp("guarded"), "--api-key", *KEYS, "--root-path", "/m") as program:
        yield program


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": None}, "'NoneType' object is not iterable"),
        ({"max_tokens": "many"}, "body.max_tokens"),
        ({"n": 0}, "n must be at least 1"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"max_tokens": 5000}, "max_tokens=5000 cannot be greater than max_model_len=2048"),
        ({"messages": [{"content": "no role"}]}, "role"),
        ({"messages": [{"role": "user", "content": 7}]}, "content"),
        ({"stop_token_ids": ["x"]}, "body.stop_token_ids"),
    ],
    ids=str,
)
def test_a_bad_field_is_named(sim: Program, fields: dict[str, object], named: str) -> None:
    answer = ask(sim.url, "POST", "/v1/chat/completions", CHAT | fields)
    assert answer.status == 400
    assert named in answer.error["message"]
    assert answer.error["code"] == 400


@pytest.mark.parametrize("prompt", [[2**40], [[2**40]]], ids=str)
def test_a_token_that_does_not_exist_is_named(sim: Program, prompt: object) -> None:
    answer = ask(sim.url, "POST", "/v1/completions", {"prompt": prompt})
    assert (answer.status, answer.error["message"]) == (400, f"Token id {2**40} is out of vocabulary")


def test_a_long_answer_is_cut_where_the_models_length_ends(sim: Program) -> None:
    usage = ask(sim.url, "POST", "/v1/completions", {"prompt": [9] * 2040, "max_tokens": 2000}).json()["usage"]
    assert usage["total_tokens"] == 2048


@pytest.mark.parametrize(("cut", "count"), [(3, 3), (-1, 2047), (2048, 2040)])
def test_a_prompt_is_cut_to_its_last_tokens(sim: Program, cut: int, count: int) -> None:
    length = 2040 if cut > 0 else 5000
    body = {"prompt": [9] * length, "max_tokens": 1, "truncate_prompt_tokens": cut}
    assert ask(sim.url, "POST", "/v1/completions", body).json()["usage"]["prompt_tokens"] == count


def test_many_answers_to_many_prompts_are_refused(sim: Program) -> None:
    answer = ask(sim.url, "POST", "/v1/completions", {"prompt": ["x"] * 1024, "n": 17})
    assert answer.status == 400 and "16384 answers" in answer.error["message"]


def test_only_json_is_taken(sim: Program) -> None:
    answer = ask(sim.url, "POST", "/v1/chat/completions", b"a=b", {"content-type": "text/plain"})
    assert answer.status == 400
    assert "application/json" in answer.error["message"]
    assert ask(sim.url, "POST", "/v1/chat/completions", b"[1]", {"content-type": "application/json"}).status == 400


def test_numbers_that_strict_readers_refuse_are_taken(sim: Program) -> None:
    body = b'\xef\xbb\xbf{"messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 4.0, "max_Tokens": NaN}'
    answer = ask(sim.url, "POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    assert answer.json()["usage"]["completion_tokens"] == 4


def test_another_method_is_not_allowed(sim: Program) -> None:
    answer = ask(sim.url, "GET", "/v1/chat/completions")
    assert (answer.status, answer.json()) == (405, {"detail": "Method Not Allowed"})


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("path", ["/v1/models", "/m/v1/models"])
def test_each_key_opens_the_routes_with_and_without_the_root_path(guarded: Program, key: str, path: str) -> None:
    assert ask(guarded.url, "GET", path, headers={"authorization": f"Bearer {key}"}).status == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong"}, {"authorization": KEYS[0]}, {"x-api-key": KEYS[0]}],
    ids=["none", "wrong", "no scheme", "another header"],
)
@pytest.mark.parametrize("path", ["/v1/models", "/m/v1/models", "/v1/nothing"])
def test_without_a_key_these_are_closed(guarded: Program, headers: dict[str, str], path: str) -> None:
    answer = ask(guarded.url, "GET", path, headers=headers)
    assert (answer.status, answer.json()) == (401, {"error": "Unauthorized"})


@pytest.mark.parametrize("path", ["/health", "/metrics", "/version", "/m/health", "/openapi.json"])
def test_without_a_key_these_are_open_as_in_vllm(guarded: Program, path: str) -> None:
    assert ask(guarded.url, "GET", path).status == 200


def test_the_engine_itself_is_open_by_the_back_door_as_in_vllm(guarded: Program) -> None:
    assert ask(guarded.url, "POST", "/invocations", CHAT).status == 200


def test_a_key_can_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "from-there")
    with programs.sim(tmp_path) as program:
        assert ask(program.url, "GET", "/v1/models").status == 401
        assert ask(program.url, "GET", "/v1/models", headers={"authorization": "bearer from-there"}).status == 200


@pytest.mark.parametrize(("rank", "status"), [("0", 200), ("x", 200), ("7", 400)])
def test_there_is_one_rank(sim: Program, rank: str, status: int) -> None:
    assert ask(sim.url, "POST", "/v1/chat/completions", CHAT, {"x-data-parallel-rank": rank}).status == status


def test_a_request_id_is_the_answers_id_and_comes_back(sim: Program) -> None:
    answer = ask(sim.url, "POST", "/v1/chat/completions", CHAT, {"x-request-id": "mine"})
    assert answer.headers["x-request-id"] == "mine"
    assert answer.json()["id"] == "chatcmpl-mine"
    assert ask(sim.url, "POST", "/v1/completions", {"prompt": "x", "request_id": "body"}).json()["id"] == "cmpl-body"
    assert len(ask(sim.url, "GET", "/health").headers["x-request-id"]) == 32


def test_request_ids_do_not_come_back_unasked(guarded: Program) -> None:
    assert "x-request-id" not in ask(guarded.url, "GET", "/health", headers={"x-request-id": "mine"}).headers


def test_a_full_queue_is_refused(tmp_path: Path) -> None:
    flags = ("--max-num-seqs", "1", "--max-num-queued-reqs", "1", "--sim-fault", "hung")
    body = json.dumps(CHAT).encode()
    waiting = request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    with programs.sim(tmp_path, "--enable-server-load-tracking", *flags) as program, ExitStack() as stack:
        lines = [stack.enter_context(line(program.url)) for _ in range(2)]
        for one in lines:
            one.send(waiting)
        programs.wait_until(lambda: ask(program.url, "GET", "/load").json()["server_load"] == 2, "two are taken")
        answer = ask(program.url, "POST", "/v1/chat/completions", CHAT)
        assert (answer.status, answer.error["type"]) == (503, "Service Unavailable")
        assert ask(program.url, "DELETE", "/sim/fault").status == 200
        assert [one.answer().status for one in lines] == [200, 200]


def test_http_1_0_gets_a_stream_that_the_connections_end_ends(sim: Program) -> None:
    body = json.dumps(CHAT | {"stream": True}).encode()
    with line(sim.url) as old:
        head = {"content-type": "application/json"}
        old.send(request("POST", "/v1/chat/completions", body, head, version="1.0"))
        answer = old.rest()
    assert b"transfer-encoding" not in answer.lower()
    assert answer.endswith(b"data: [DONE]\n\n")


def test_idle_connections_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "1")
    with programs.sim(tmp_path) as program, line(program.url) as idle:
        idle.send(request("GET", "/health"))
        assert idle.answer().status == 200
        assert idle.read(1) == b""
