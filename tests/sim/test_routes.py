"""Routes that the official client does not know: health, tokens, scores, Anthropic's dialect, adapters, development."""

import json
from pathlib import Path
from typing import Any

import programs
import pytest
from programs import Program
from wire import Answer, ask, line, request

from dp_vllm.engine.routes import ROUTES, UNKNOWN, route_of

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
MESSAGE = CHAT | {"model": "demo/model"}


def post(program: Program, path: str, body: object) -> Answer:
    return ask(program.url, "POST", path, body)


@pytest.mark.parametrize(("method", "path"), [("GET", "/health"), ("GET", "/ping"), ("POST", "/ping")])
def test_it_is_well(sim: Program, method: str, path: str) -> None:
    assert ask(sim.url, method, path).status == 200


def test_the_version_says_that_it_is_simulated(sim: Program) -> None:
    assert ask(sim.url, "GET", "/version").json()["version"].endswith("+simulated")
    assert "is simulated, no model is run" in sim.output()


def test_it_describes_the_routes_it_has(sim: Program) -> None:
    paths = ask(sim.url, "GET", "/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/responses/{response_id}", "/tokenize", "/sleep"} <= paths.keys()
    assert "/v1/embeddings" not in paths
    for path, methods in paths.items():
        for method in methods:
            assert route_of(method.upper(), path.replace("{", "").replace("}", "")) is not UNKNOWN, (method, path)


def test_its_description_has_bodies_that_it_takes(sim: Program, pooling: Program) -> None:
    taken = 0
    for engine in (sim, pooling):
        described = ask(engine.url, "GET", "/openapi.json").json()
        schemas = described["components"]["schemas"]
        for path, methods in described["paths"].items():
            asked = methods.get("post", {}).get("requestBody")
            if asked is None:
                continue
            schema = schemas[asked["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]]
            if "example" in schema:
                assert post(engine, path, schema["example"]).status == 200, path
                taken += 1
        assert "tools" in schemas["ChatCompletionRequest"]["properties"]
    assert taken >= 14


def test_its_description_lacks_no_body(sim: Program, pooling: Program) -> None:
    without = {"/ping", "/invocations", "/v1/responses/{response_id}/cancel"}
    for engine in (sim, pooling):
        paths = ask(engine.url, "GET", "/openapi.json").json()["paths"]
        posts = {path: methods["post"] for path, methods in paths.items() if "post" in methods}
        assert {path for path in posts if "requestBody" not in posts[path]} <= without | {
            route.path for route in ROUTES if route.admin
        }


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_it_has_a_page_for_people(sim: Program, path: str) -> None:
    answer = ask(sim.url, "GET", path)
    assert answer.headers["content-type"].startswith("text/html")
    assert b"no model is run" in answer.body


def test_text_is_tokenized_and_comes_back(sim: Program) -> None:
    tokenized = post(sim, "/tokenize", {"prompt": "Good day, wörld", "return_token_strs": True}).json()
    assert tokenized["count"] == len(tokenized["tokens"]) == len(tokenized["token_strs"])
    assert tokenized["max_model_len"] == 2048
    assert post(sim, "/detokenize", {"tokens": tokenized["tokens"]}).json() == {"prompt": "Good day, wörld"}


def test_a_chat_is_tokenized_as_it_is_prompted(sim: Program) -> None:
    count = post(sim, "/tokenize", {"messages": CHAT["messages"]}).json()["count"]
    assert post(sim, "/v1/chat/completions", CHAT).json()["usage"]["prompt_tokens"] == count


def test_a_token_that_does_not_exist_is_refused(sim: Program) -> None:
    answer = post(sim, "/detokenize", {"tokens": [2**32]})
    assert answer.status == 400
    assert str(2**32) in answer.error["message"]


def test_the_tokenizer_tells_its_size(sim: Program) -> None:
    assert ask(sim.url, "GET", "/tokenizer_info").json()["vocab_size"] > 2**31


def test_one_route_takes_chats_and_prompts(sim: Program) -> None:
    assert post(sim, "/invocations", CHAT).json()["object"] == "chat.completion"
    assert post(sim, "/invocations", {"prompt": "Hello"}).json()["object"] == "text_completion"


def test_messages_are_answered_in_anthropics_dialect(sim: Program) -> None:
    answer = post(sim, "/v1/messages", MESSAGE | {"system": "Be brief."}).json()
    assert answer["content"] == [{"type": "text", "text": "This is a sim"}]
    assert answer["stop_reason"] == "max_tokens"
    counted = post(sim, "/v1/messages/count_tokens", MESSAGE | {"system": "Be brief."}).json()
    assert counted["input_tokens"] == answer["usage"]["input_tokens"]


def test_streamed_messages_are_events_of_anthropics(sim: Program) -> None:
    answer = post(sim, "/v1/messages", MESSAGE | {"stream": True})
    events = [json.loads(event.partition("data: ")[2]) for event in answer.body.decode().split("\n\n") if event]
    assert [event["type"] for event in events] == [
        *("message_start", "content_block_start"),
        *["content_block_delta"] * 4,
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    assert "".join(event["delta"]["text"] for event in events if "text" in event.get("delta", {})) == "This is a sim"


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_pairs_are_scored(pooling: Program, path: str) -> None:
    answer = post(pooling, path, {"text_1": "one", "text_2": ["two", "three"]}).json()
    assert [entry["index"] for entry in answer["data"]] == [0, 1]
    assert all(0 <= entry["score"] <= 1 for entry in answer["data"])


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_documents_are_ranked_best_first(pooling: Program, path: str) -> None:
    body = {"query": "one", "documents": ["two", "three", "four"], "top_n": 2}
    results = post(pooling, path, body).json()["results"]
    scores = [result["relevance_score"] for result in results]
    assert len(results) == 2 and scores == sorted(scores, reverse=True)


def test_vectors_have_three_names(pooling: Program) -> None:
    pooled = post(pooling, "/pooling", {"input": "one"}).json()["data"][0]["data"]
    embedded = post(pooling, "/v1/embeddings", {"input": "one"}).json()["data"][0]["embedding"]
    cohere = post(pooling, "/v2/embed", {"texts": ["one"]}).json()["embeddings"]["float"][0]
    assert pooled == embedded == cohere


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/classify"])
def test_routes_for_a_task_that_the_model_lacks_are_absent(pooling: Program, path: str) -> None:
    answer = post(pooling, path, CHAT)
    assert (answer.status, answer.json()) == (404, {"detail": "Not Found"})


def test_a_classifier_classifies(tmp_path: Path) -> None:
    with programs.sim(tmp_path, "--runner", "pooling", "--convert", "classify") as program:
        entry = post(program, "/classify", {"input": "one"}).json()["data"][0]
    assert sum(entry["probs"]) == pytest.approx(1.0)
    assert entry["label"] in ("LABEL_0", "LABEL_1")


def test_adapters_come_and_go(sim: Program) -> None:
    adapter = {"lora_name": "second", "lora_path": "/adapters/second"}
    assert post(sim, "/v1/load_lora_adapter", adapter).status == 200
    assert post(sim, "/v1/load_lora_adapter", adapter).status == 400
    assert post(sim, "/v1/completions", {"model": "second", "prompt": "Hello"}).json()["model"] == "second"
    cards = {card["id"]: card for card in ask(sim.url, "GET", "/v1/models").json()["data"]}
    assert (cards["second"]["parent"], cards["second"]["root"]) == ("demo/model", "/adapters/second")
    assert post(sim, "/v1/unload_lora_adapter", {"lora_name": "second"}).status == 200
    assert post(sim, "/v1/unload_lora_adapter", {"lora_name": "second"}).status == 404
    assert post(sim, "/v1/completions", {"model": "second", "prompt": "Hello"}).status == 404


def test_adapters_come_and_go_by_name(sim: Program) -> None:
    assert post(sim, "/adapters", {"name": "third", "src": "/adapters/third"}).status == 200
    assert ask(sim.url, "DELETE", "/adapters/third").status == 200
    assert ask(sim.url, "DELETE", "/adapters/third").status == 404


@pytest.mark.parametrize(
    ("stop", "check", "go"),
    [("/sleep?level=1", "/is_sleeping", "/wake_up"), ("/pause?mode=keep", "/is_paused", "/resume")],
    ids=["sleep", "pause"],
)
def test_it_stands_still_until_it_is_told_to_go_on(sim: Program, stop: str, check: str, go: str) -> None:
    field = check.removeprefix("/")
    assert post(sim, stop, None).status == 200
    assert ask(sim.url, "GET", check).json() == {field: True}
    with line(sim.url) as waiting:
        body = json.dumps({"prompt": "Hello", "max_tokens": 2}).encode()
        waiting.send(request("POST", "/v1/completions", body, {"content-type": "application/json"}))
        programs.wait_until(lambda: ask(sim.url, "GET", "/load").json() == {"server_load": 1}, "the request waits")
        assert post(sim, go, None).status == 200
        assert waiting.answer().status == 200
    assert ask(sim.url, "GET", check).json() == {field: False}


LONG = {"max_tokens": 2000}
ABORTED = (
    ("/v1/chat/completions", {"messages": CHAT["messages"]}, ["chatcmpl-mine"]),
    ("/v1/chat/completions", {"messages": CHAT["messages"], "stream": True}, ["chatcmpl-mine"]),
    ("/v1/completions", {"prompt": ["one", "two"]}, ["cmpl-mine-0", "cmpl-mine-1"]),
    ("/v1/completions", {"prompt": "one", "n": 2, "stop": "zzz"}, "cmpl-mine-0"),
    ("/v1/completions", {"prompt": "one", "stream": True}, None),
)


@pytest.mark.parametrize(
    ("path", "body", "ids"), ABORTED, ids=lambda value: None if isinstance(value, dict) else str(value)
)
def test_aborted_requests_are_answered_with_what_there_is(
    sim: Program, path: str, body: dict[str, Any], ids: Any
) -> None:
    with line(sim.url) as waiting:
        head = {"content-type": "application/json", "x-request-id": "mine"}
        waiting.send(request("POST", path, json.dumps(body | LONG).encode(), head))
        programs.wait_until(lambda: ask(sim.url, "GET", "/load").json() == {"server_load": 1}, "the request runs")
        assert post(sim, "/abort_requests", {"request_ids": ["nobody"]}).json() == {"status": "aborted", "aborted": 1}
        assert ask(sim.url, "GET", "/load").json() == {"server_load": 1}
        assert post(sim, "/abort_requests", {"request_ids": ids} if ids else {}).json()["status"] == "aborted"
        answer = waiting.answer()
    assert answer.status == 200
    assert answer.body.count(b'"finish_reason":"abort","stop_reason":null') == body.get("n", len(ids or "1"))


@pytest.mark.parametrize("body", [b"", b"[]", b"{"])
def test_aborting_takes_an_object(sim: Program, body: bytes) -> None:
    assert ask(sim.url, "POST", "/abort_requests", body).status == 400


def test_the_routes_for_disaggregated_serving_say_that_they_are_closed(sim: Program) -> None:
    answer = post(sim, "/inference/v1/abort_requests", {"request_ids": []})
    assert (answer.status, answer.error["type"]) == (403, "PermissionDeniedError")


def test_unknown_modes_are_refused(sim: Program) -> None:
    assert "abort, wait, keep" in post(sim, "/pause?mode=now", None).error["message"]
    assert post(sim, "/sleep?level=9", None).status == 400


@pytest.mark.parametrize("path", ["/server_info", "/weight_info", "/get_world_size", "/kv_event_sources"])
def test_it_tells_of_itself(sim: Program, path: str) -> None:
    assert isinstance(ask(sim.url, "GET", path).json(), dict)


@pytest.mark.parametrize("path", ["/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache"])
def test_caches_are_reset(sim: Program, path: str) -> None:
    assert post(sim, path, None).status == 200


def test_development_routes_are_absent_by_default(pooling: Program) -> None:
    assert post(pooling, "/sleep", None).status == 404
    assert post(pooling, "/v1/load_lora_adapter", {}).status == 404


def test_only_the_named_endpoints_are_left_out_of_the_access_log(tmp_path: Path) -> None:
    with programs.sim(tmp_path, "--disable-access-log-for-endpoints", "/health,/metrics") as program:
        assert programs.answers(program.url + "/health")
        assert programs.answers(program.url + "/version")
        programs.wait_until(lambda: '"GET /version' in program.output(), "the request is logged")
        assert '"GET /health' not in program.output()
