"""What is wrong with a line, when a request is sent again, what is told."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from dp_vllm.batch import again, endpoint, requests
from dp_vllm.batch.again import Failed
from dp_vllm.batch.progress import Rate, Standing, sentence
from dp_vllm.errors import BadSettings, UserError

GOOD = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}


@pytest.mark.parametrize(
    "url",
    ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/score", "/v1/score", "/rerank"],
)
def test_what_engines_answer_can_be_asked(url: str, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(GOOD | {"url": url, "more": 1}) + "\n\n")
    assert list(requests.check(path).values()) == [1]
    (one,) = requests.read(path)
    assert (one.custom_id, one.path, json.loads(one.body)) == ("a", url, {"prompt": "x"})


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "it is not JSON: "),
        ("[]", "Expected `object`, got `array`"),
        ({"custom_id": 3}, "Expected `str`, got `int` - at `$.custom_id`"),
        ({"custom_id": ""}, "custom_id is empty"),
        ({"body": "x"}, "Expected `object`, got `str` - at `$.body`"),
        ({"method": "GET"}, "method 'GET' is not POST"),
        ({"url": "/v1/files"}, "url '/v1/files' is none that engines answer, like /v1/chat/completions"),
        ({"url": "/v1/audio/transcriptions"}, "url '/v1/audio/transcriptions' takes no JSON, or changes the engines"),
        ({"url": "/sleep"}, "url '/sleep' takes no JSON, or changes the engines"),
        ({"body": {"stream": True}}, "stream is set, and an answer in a file is whole: leave it out"),
        ({"custom_id": "first"}, "custom_id 'first' is that of line 1 too"),
    ],
)
def test_a_line_that_cannot_be_sent_is_named_before_anything_is(
    line: str | dict[str, Any], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "in.jsonl"
    second = line if isinstance(line, str) else json.dumps(GOOD | line)
    path.write_text(json.dumps(GOOD | {"custom_id": "first"}) + "\n" + second + "\n")
    with pytest.raises(UserError) as error:
        requests.check(path)
    assert str(error.value).startswith(f"{path}: 1 line cannot be sent, so nothing was\n  line 2: {told}")


def test_of_many_wrong_lines_the_first_are_told_and_an_empty_file_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("x\n" * 25)
    with pytest.raises(UserError) as error:
        requests.check(path)
    assert str(error.value).count("\n  line ") == 10 and str(error.value).endswith("\n  and 15 more")
    path.write_text("\n\n")
    with pytest.raises(UserError, match="holds no requests"):
        requests.check(path)


@pytest.mark.parametrize(
    ("status", "should_retry", "final"),
    [(200, "", True), (400, "", True), (500, "", True), (429, "", False), (503, "", False), (504, "false", True)],
)
def test_which_answers_are_final(status: int, should_retry: str, final: bool) -> None:
    assert again.is_final(status, should_retry) is final


@pytest.mark.parametrize(
    ("told", "attempt", "least", "most"),
    [
        ("", 1, 0.25, 0.5),
        ("", 3, 1, 2),
        ("", 100, 15, 30),
        ("7", 1, 7.25, 7.5),
        ("x", 1, 0.25, 0.5),
        ("9999", 1, 300, 301),
    ],
)
def test_pauses_grow_and_are_as_long_as_we_are_told(told: str, attempt: int, least: float, most: float) -> None:
    for seed in range(20):
        assert least <= again.pause_seconds(Failed(503, told), attempt, random.Random(seed)) <= most


def test_addresses() -> None:
    assert endpoint.named("http://host:1/v1/", "").address("/v1/models") == "http://host:1/v1/models"
    assert endpoint.named("unix:/run/x", "").address("/v1/models") == "http://localhost/v1/models"
    with pytest.raises(BadSettings, match="--base-url: 'host:8000' is no address"):
        endpoint.named("host:8000", "")


def test_progress_in_words() -> None:
    rate = Rate(0.0, 100)
    assert rate.at(10.0, 185) == 8.5
    assert sentence(Standing(185, 1000, 3), 8.5) == "185 of 1,000 (18 %), 3 failed, 8.5/s, 96 s left"
    assert sentence(Standing(0, 10, 0, "waiting: busy"), 0.0) == "0 of 10 (0 %), 0.0/s, waiting: busy"
    assert rate.at(60.0, 185) == 0.0  # only the last while counts
