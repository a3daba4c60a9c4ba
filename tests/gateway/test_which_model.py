"""Which of several models a request is for, and what belongs to the endpoint whatever its models are."""

from collections.abc import Iterator

import openai
import programs
import pytest
import scripted
import wire
from programs import Program
from scripted import Asked, Engine, Peer

AUDIO = "/v1/audio/transcriptions"


def answering(peer: Peer, asked: Asked) -> None:
    """The models under `/v1/models`, and for all else what was asked."""
    models = {
        "object": "list",
        "data": [{"id": model, "object": "model"} for model in ("org/small", "tiny", "/data/m")],
    }
    target = {"text": asked.target, "paths": {"/v1/completions": {"post": {}}}}
    peer.send(scripted.whole(200, models if asked.target == "/v1/models" else target))


@pytest.fixture(scope="module")
def small() -> Iterator[Engine]:
    with scripted.engine(answering, models=("org/small", "tiny", "/data/m")) as engine:
        yield engine


@pytest.fixture(scope="module")
def program(small: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A gateway before `org/small`, which is `tiny` too, and `large`."""
    with (
        scripted.engine(scripted.FINE, models=("large",)) as large,
        scripted.gateway(tmp_path_factory.mktemp("models"), (small, large)) as program,
    ):
        yield program


@pytest.fixture
def client(program: Program) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{program.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_what_is_the_endpoints_needs_no_model(program: Program) -> None:
    for path in ("/health", "/ping", "/ready", "/version", "/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"):
        for method in ("GET", "HEAD"):
            assert wire.ask(program.url, method, path).status == 200, path


def test_an_unknown_response_is_looked_for_at_a_replica(program: Program) -> None:
    for method, path in (("GET", "/v1/responses/resp_none"), ("POST", "/v1/responses/resp_none/cancel")):
        answer = wire.ask(program.url, method, path)
        assert (answer.status, answer.headers["x-dp-vllm-replica"]) in ((200, "0"), (200, "1"))
        assert wire.ask(program.url, method, f"{path}?model=large").headers["x-dp-vllm-replica"] == "1"


def test_what_is_no_route_is_not_found(program: Program) -> None:
    for path in ("/", "/v1", "/v2/models", "/version/x", "/favicon.ico"):
        for method in ("GET", "POST"):
            answer = wire.ask(program.url, method, path, b"{}" if method == "POST" else None)
            assert (answer.status, answer.error["type"]) == (404, "not_found_error"), path
    upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    assert wire.ask(program.url, "GET", "/nothing", headers=upgrade | {"sec-websocket-key": "A" * 24}).status == 404
    assert wire.ask(program.url, "GET", "/plugin?model=tiny").json()["text"] == "/plugin?model=tiny"
    assert wire.ask(program.url, "GET", "/plugin?model=none").error["code"] == "model_not_found"


def test_a_route_of_another_method_says_which(program: Program) -> None:
    answer = wire.ask(program.url, "GET", "/v1/chat/completions")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert wire.ask(program.url, "DELETE", "/ping").headers["allow"] == "GET, POST"
    assert wire.ask(program.url, "POST", "/ping").status == 200


@pytest.mark.parametrize("size", [3, 300_000])
def test_a_form_names_its_model(program: Program, client: openai.OpenAI, small: Engine, size: int) -> None:
    audio = ("a.wav", bytes(size), "audio/wav")
    answer = client.audio.transcriptions.with_raw_response.create(model="tiny", file=audio, language="en")
    assert answer.headers["x-dp-vllm-replica"] == "0"
    assert small.asked[-1].body.count(b"\0") == size, "it passes as it came"
    answer = client.audio.transcriptions.with_raw_response.create(model="large", file=audio)
    assert answer.headers["x-dp-vllm-replica"] == "1"
    with pytest.raises(openai.NotFoundError, match="The model `none` does not exist"):
        client.audio.transcriptions.create(model="none", file=audio)
    programs.wait_until(lambda: f"POST {AUDIO} key=- model=tiny " in program.output(), "the log names the model")


def test_a_form_may_ask_for_a_stream(program: Program, client: openai.OpenAI) -> None:
    audio = ("a.wav", bytes(300_000), "audio/wav")
    for stream in (False, True):
        client.audio.transcriptions.with_raw_response.create(model="large", file=audio, stream=stream)
        counted = (
            f'dp_vllm_time_to_first_token_seconds_count{{route="{AUDIO}"}} 1'
            in wire.ask(program.url, "GET", "/metrics").body.decode()
        )
        assert counted is stream, "only a stream has a first token"


@pytest.mark.parametrize("model", ["org/small", "tiny", "/data/m"])
def test_a_model_is_retrieved_from_the_list_of_all(client: openai.OpenAI, program: Program, model: str) -> None:
    assert client.models.retrieve(model).id == model
    for spelling in (model, model.replace("/", "%2F"), model.replace("/", "%2f"), model.replace("s", "%73")):
        answer = wire.ask(program.url, "GET", f"/v1/models/{spelling}")
        assert (answer.status, answer.json()["id"]) == (200, model)


@pytest.mark.parametrize("model", ["none", "org", "small", "org/small/x", "ORG/small"])
def test_another_model_does_not_exist(program: Program, model: str) -> None:
    answer = wire.ask(program.url, "GET", f"/v1/models/{model}")
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert f"`{model}`" in answer.error["message"]
