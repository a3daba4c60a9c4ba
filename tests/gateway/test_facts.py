"""What is read of a body: never a refusal that a more lenient reader would not make too."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm_gateway.facts import BYTES_PER_TOKEN, TOKENS_PER_DATA_URL, BadJson, Facts, facts_of

FIELDS = ("model", "stream", "n", "previous_response_id", "prompt", "messages", "max_tokens")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
BODIES = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), VALUES, max_size=6)


def accepted(body: bytes) -> bool:
    """Whether the standard library reads it as JSON."""
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


@given(BODIES)
def test_every_json_object_has_facts_and_what_is_of_the_right_type_is_among_them(body: dict[str, Any]) -> None:
    facts = facts_of(json.dumps(body).encode())
    assert facts.model == (body.get("model") if isinstance(body.get("model"), str) else None)
    assert facts.stream is (body.get("stream") is True)
    previous = body.get("previous_response_id")
    assert facts.previous_response == (previous if isinstance(previous, str) else None)
    assert facts.sequences >= 1
    assert facts.tokens >= 0


@given(st.one_of(VALUES.map(lambda value: json.dumps(value).encode()), st.binary(), st.text().map(str.encode)))
def test_a_body_is_refused_only_if_the_standard_library_refuses_it_too(body: bytes) -> None:
    try:
        facts_of(body)
    except BadJson:
        assert not accepted(body)


@given(BODIES, st.data())
def test_a_damaged_body_is_read_or_refused_but_never_anything_else(body: dict[str, Any], data: st.DataObject) -> None:
    whole = bytearray(json.dumps(body).encode())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        facts_of(bytes(whole))
    except BadJson:
        assert not accepted(bytes(whole))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be"])
def test_every_encoding_that_json_may_have_is_read(encoding: str) -> None:
    body = json.dumps({"model": "ünï", "stream": True, "n": 2}, ensure_ascii=False).encode(encoding)
    facts = facts_of(body)
    assert (facts.model, facts.stream, facts.sequences) == ("ünï", True, 2)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, Facts(tokens=0)),
        ({"model": "m", "stream": True}, Facts("m", True, 1, 7)),
        ({"n": 4}, Facts(sequences=4, tokens=2)),
        ({"n": 4.0, "model": "m"}, Facts("m", tokens=6)),
        ({"n": True}, Facts(tokens=2)),
        ({"n": 10**30}, Facts(sequences=10**30, tokens=9)),
        ({"prompt": []}, Facts(sequences=1, tokens=0)),
        ({"prompt": [1, 2, 3]}, Facts(sequences=1, tokens=3)),
        ({"prompt": ["abcd", "efghijkl"], "n": 3}, Facts(sequences=6, tokens=3)),
        ({"prompt": [[1, 2], [3, 4, 5]]}, Facts(sequences=2, tokens=5)),
        ({"previous_response_id": "resp_1"}, Facts(tokens=9, previous_response="resp_1")),
    ],
)
def test_what_is_read(body: dict[str, Any], expected: Facts) -> None:
    facts = facts_of(json.dumps(body).encode())
    assert facts.tokens == pytest.approx(expected.tokens, abs=2)
    for name in ("model", "stream", "sequences", "previous_response"):
        assert getattr(facts, name) == getattr(expected, name), name


def test_an_image_counts_as_so_many_tokens_however_long_it_is() -> None:
    url = "data:image/png;base64," + "A" * 1_000_000
    part = {"type": "image_url", "image_url": {"url": url}}
    facts = facts_of(json.dumps({"messages": [{"role": "user", "content": [part, part]}]}).encode())
    assert facts.tokens == pytest.approx(2 * TOKENS_PER_DATA_URL, abs=100)
    text = facts_of(json.dumps({"prompt": "A" * 1_000_000}).encode())
    assert text.tokens == pytest.approx(1_000_000 / BYTES_PER_TOKEN, abs=100)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"])
def test_nesting_without_end_is_no_json(body: bytes) -> None:
    with pytest.raises(BadJson):
        facts_of(body)
