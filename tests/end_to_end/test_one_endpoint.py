"""What clients may ask of one endpoint with two replicas: the same of the simulated engine and of the real one."""

import asyncio
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import deployments
import openai
import programs
import pytest
import wire

ENGINES = ["sim", pytest.param("vllm", marks=pytest.mark.vllm)]
KEYS = ["first-key", "second-key"]
PAGE = "https://app.example"
CHAT = {"model": deployments.MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
EXAMPLE = Path(__file__).parents[2] / "examples" / "chat.py"


@pytest.fixture(scope="module", params=ENGINES)
def deployment(request: pytest.FixtureRequest) -> Iterator[deployments.Served]:
    flags = ("--api-key", *KEYS, "--allowed-origins", json.dumps([PAGE]))
    environ = {"VLLM_SERVER_DEV_MODE": "1"}
    with deployments.serve(*flags, engine=request.param, replicas=2, environ=environ) as served:
        yield served


@pytest.fixture
def client(deployment: deployments.Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=deployment.url + "/v1", api_key=KEYS[0], max_retries=0) as client:
        yield client


def chat(client: openai.OpenAI, text: str = "hello", **more: Any) -> Any:
    """Eight tokens for a chat of one message."""
    return client.chat.completions.create(
        model=deployments.MODEL,
        messages=[{"role": "user", "content": text}],
        max_tokens=8,
        extra_body={"ignore_eos": True},
        **more,
    )


def post(url: str, path: str, body: Mapping[str, object] | bytes, key: str = KEYS[0]) -> dict[str, Any]:
    """The JSON that a path without a place in the `openai` package answers."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    with urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=30) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def test_the_one_model_is_listed_once(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [deployments.MODEL]


def test_a_chat_is_answered_with_as_many_tokens_as_were_asked_for(client: openai.OpenAI) -> None:
    answer = chat(client)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8


def test_a_streamed_chat_comes_in_chunks_and_ends_with_its_usage(client: openai.OpenAI) -> None:
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage.completion_tokens == 8


def test_a_completion_has_as_many_choices_as_were_asked_for(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=deployments.MODEL, prompt="hello", n=2, max_tokens=4)
    assert len(answer.choices) == 2


def test_the_responses_api_answers(client: openai.OpenAI) -> None:
    answer = client.responses.create(model=deployments.MODEL, input="hello", max_output_tokens=8)
    assert answer.output_text


def test_the_messages_api_answers(deployment: deployments.Served) -> None:
    body = {"model": deployments.MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
    assert post(deployment.url, "/v1/messages", body)["content"][0]["text"]


def test_text_becomes_tokens_and_the_same_text_again(deployment: deployments.Served) -> None:
    text = "One endpoint, many replicas."
    tokens = post(deployment.url, "/tokenize", {"model": deployments.MODEL, "prompt": text})
    assert tokens["count"] == len(tokens["tokens"]) > 0
    again = post(deployment.url, "/detokenize", {"model": deployments.MODEL, "tokens": tokens["tokens"]})
    assert again["prompt"] == text


def test_each_key_opens_the_endpoint_and_no_other_does(deployment: deployments.Served) -> None:
    url = deployment.url + "/v1"
    for key in KEYS:
        assert chat(openai.OpenAI(base_url=url, api_key=key)).choices
    with pytest.raises(openai.AuthenticationError):
        chat(openai.OpenAI(base_url=url, api_key="another-key"))


def test_a_path_that_the_engine_leaves_open_needs_a_key_too(deployment: deployments.Served) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        post(deployment.url, "/tokenize", {"model": deployments.MODEL, "prompt": "hello"}, key="another-key")


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "hello"}])


def test_malformed_json_is_a_bad_request(deployment: deployments.Served) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400"):
        post(deployment.url, "/v1/chat/completions", b'{"messages": [}')


def ask(deployment: deployments.Served, method: str, path: str, body: Any = None, **headers: str) -> wire.Answer:
    """One request with a key; underscores in the names of headers are dashes."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return wire.ask(deployment.url, method, path, body, {"authorization": f"Bearer {KEYS[0]}", **given})


def test_only_pages_of_the_named_origin_may_read_answers(deployment: deployments.Served) -> None:
    answer = ask(deployment, "POST", "/v1/chat/completions", CHAT, origin=PAGE)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, PAGE)
    other = ask(deployment, "POST", "/v1/chat/completions", CHAT, origin="https://other.example")
    assert other.status == 200 and "access-control-allow-origin" not in other.headers
    wanted = {"access_control_request_method": "POST", "access_control_request_headers": "authorization,content-type"}
    preflight = ask(deployment, "OPTIONS", "/v1/chat/completions", origin=PAGE, **wanted)
    assert (preflight.status, preflight.headers["access-control-allow-origin"]) == (200, PAGE)


def test_a_slash_too_many_stays_at_the_endpoint(deployment: deployments.Served) -> None:
    answer = ask(deployment, "POST", "/v1/chat/completions/", CHAT)
    if answer.status == 307:
        place = answer.headers["location"]
        assert place.startswith(("/", f"{deployment.url}/")), place
        answer = ask(deployment, "POST", place.removeprefix(deployment.url), CHAT)
    assert answer.status == 200 and answer.json()["choices"]


@pytest.mark.parametrize(
    ("method", "plain", "encoded"),
    [
        ("POST", "/v1/chat/completions", "/v1/chat%2Fcompletions"),
        ("POST", "/v1/chat/completions", "/v1/%63hat/completions"),
        ("POST", "/v1/chat/completions", "/v1/chat/completions#x"),
        ("POST", "/collective_rpc", "/collective%5Frpc"),
        ("POST", "/collective_rpc", "/%63ollective_rpc#x"),
        ("POST", "/scale_elastic_ep", "/scale%5Felastic_ep"),
        ("POST", "/v1/load_lora_adapter", "/v1/load%5Flora_adapter"),
        ("GET", "/is_sleeping", "/is%5Fsleeping"),
        ("GET", "/metrics", "/%6detrics"),
        ("GET", "/v1/models", "/v1/%6Dodels"),
        ("GET", "/docs", "/%64ocs"),
    ],
)
def test_an_encoded_path_is_the_plain_one_or_is_refused(
    deployment: deployments.Served, method: str, plain: str, encoded: str
) -> None:
    body = CHAT if method == "POST" else None
    expected, got = (ask(deployment, method, path, body) for path in (plain, encoded))
    assert got.status in (expected.status, 400), got.body


def retries(deployment: deployments.Served) -> str:
    """How many attempts the gateway made that were not a request's first, as its page of metrics has it."""
    lines = ask(deployment, "GET", "/metrics").body.decode().splitlines()
    return next(line for line in lines if line.startswith("dp_vllm_retries_total"))


@pytest.mark.parametrize("stream", [False, True])
def test_an_abort_that_was_requested_is_the_answer(deployment: deployments.Served, stream: bool) -> None:
    body = CHAT | {"max_tokens": 1900, "stream": stream, "ignore_eos": True}
    before = retries(deployment)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, deployment, "POST", "/v1/chat/completions", body)
        programs.wait_until(lambda: deployment.in_flight() == 1, "the request is at a replica")
        while not waiting.done():
            assert ask(deployment, "POST", "/abort_requests", {}).status == 200
    answer = waiting.result()
    assert (answer.status, b'"finish_reason":"abort"' in answer.body) == (200, True)
    assert retries(deployment) == before


def test_many_threads_are_answered_by_both_replicas(client: openai.OpenAI) -> None:
    def ask(number: int) -> str:
        response = client.chat.completions.with_raw_response.create(
            model=deployments.MODEL, messages=[{"role": "user", "content": f"question {number}"}], max_tokens=8
        )
        assert response.parse().choices
        return response.headers["x-dp-vllm-replica"]

    with ThreadPoolExecutor(64) as threads:
        assert set(threads.map(ask, range(128))) == {"0", "1"}


async def test_many_asynchronous_streams_are_answered(deployment: deployments.Served) -> None:
    async with openai.AsyncOpenAI(base_url=deployment.url + "/v1", api_key=KEYS[0], max_retries=0) as client:

        async def ask(number: int) -> str | None:
            stream = await client.chat.completions.create(
                model=deployments.MODEL,
                messages=[{"role": "user", "content": f"question {number}"}],
                max_tokens=8,
                stream=True,
            )
            return [chunk.choices[0].finish_reason async for chunk in stream][-1]

        reasons = await asyncio.gather(*(ask(number) for number in range(32)))
    assert set(reasons) <= {"length", "stop"}


def test_the_metrics_of_both_replicas_are_one_page(deployment: deployments.Served) -> None:
    request = urllib.request.Request(deployment.url + "/metrics", headers={"authorization": f"Bearer {KEYS[0]}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        lines = [line for line in response.read().decode().splitlines() if line.startswith("vllm:num_requests_running")]
    assert {replica for replica in "01" if any(f'replica="{replica}"' in line for line in lines)} == {"0", "1"}


def test_the_example_asks_several_questions_at_once(deployment: deployments.Served) -> None:
    words = ["--base-url", deployment.url + "/v1", "--api-key", KEYS[1], "--max-tokens", "8", "one?", "two?"]
    done = subprocess.run([sys.executable, str(EXAMPLE), *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("> one?\n") and "\n> two?\n" in done.stdout


@pytest.mark.parametrize("engine", ENGINES)
def test_a_pooling_model_gives_embeddings(engine: str) -> None:
    with (
        deployments.serve("--runner", "pooling", engine=engine) as served,
        openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0) as client,
    ):
        answer = client.embeddings.create(model=deployments.MODEL, input=["one", "two", "one"])
        one, two, again = (item.embedding for item in answer.data)
        assert one == again != two
        with pytest.raises(openai.NotFoundError):
            chat(client)
