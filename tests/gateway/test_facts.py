"""What is read of a body: never a refusal that a more lenient reader would not make too."""

import base64
import itertools
import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm.policy import Policy
from dp_vllm_gateway.bounds import MOST_PRIORITY, MOST_SEQUENCES
from dp_vllm_gateway.facts import BadJson, Facts, facts_of
from dp_vllm_gateway.multipart import TRUE
from dp_vllm_gateway.routing.blocks import BLOCK_BYTES
from dp_vllm_gateway.routing.files import files_of
from dp_vllm_gateway.routing.load import BYTES_PER_TOKEN
from dp_vllm_gateway.routing.prompt import TOKENS_PER_FILE

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
    stream = body.get("stream")
    assert facts.stream is (stream == 1 or (isinstance(stream, str) and stream.lower() in TRUE))
    previous = body.get("previous_response_id")
    assert facts.previous_response == (previous if isinstance(previous, str) else None)
    assert facts.sequences >= 1
    assert facts.tokens >= 0


@given(st.one_of(VALUES.map(lambda value: json.dumps(value).encode()), st.binary(), st.text().map(str.encode)))
def test_a_body_is_refused_only_if_the_standard_library_refuses_it_too(body: bytes) -> None:
    try:
        for policy in Policy:
            facts_of(body, policy)
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
        ({"n": 4.0, "model": "m"}, Facts("m", sequences=4, tokens=6)),
        ({"n": "4"}, Facts(sequences=4, tokens=2)),
        ({"n": " +1_0.00 "}, Facts(sequences=10, tokens=5)),
        ({"n": "1__0"}, Facts(tokens=3)),
        ({"n": "1_"}, Facts(tokens=2)),
        ({"n": "\u0661"}, Facts(tokens=3)),
        ({"n": 1.5}, Facts(tokens=2)),
        ({"n": True}, Facts(tokens=2)),
        ({"n": 10**30}, Facts(sequences=MOST_SEQUENCES, tokens=9)),
        ({"prompt": ["a"] * 1000, "n": 1000}, Facts(sequences=MOST_SEQUENCES, tokens=1000)),
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


@pytest.mark.parametrize("number", ["-1", "0", f"{2**31}", f"{2**53 + 1}", f"{2**64}", "1" + "0" * 400, "9" * 5000])
@pytest.mark.parametrize("sign", ["", "-"])
def test_numbers_of_any_size_are_clamped(number: str, sign: str) -> None:
    written = (sign + number).removeprefix("--")
    for value in (written, f'"{written}"'):
        facts = facts_of(b'{"prompt": "x", "n": %b, "priority": %b}' % (value.encode(), value.encode()))
        small = len(number) < 5
        size = int(number) if small else MOST_SEQUENCES
        assert facts.sequences == (1 if written.startswith("-") else max(1, size))
        most = abs(int(number)) if small else MOST_PRIORITY
        assert facts.priority == (-most if written.startswith("-") else most)


@pytest.mark.parametrize(
    "odd", ["NaN", "Infinity", "-Infinity", "1e400", "-0.0", '""', "true", "[]", "{}", "null", '"x"']
)
def test_what_is_no_integer_counts_as_none(odd: str) -> None:
    facts = facts_of(b'{"prompt": "x", "n": %b, "priority": %b}' % (odd.encode(), odd.encode()))
    assert (facts.sequences, facts.priority in (0, 1)) == (1, True)


@pytest.mark.parametrize("value", ["true", "Yes", "1", 1, 1.0])
def test_a_stream_is_asked_for_in_all_ways_that_engines_take(value: object) -> None:
    assert facts_of(json.dumps({"model": "m", "stream": value, "n": "2"}).encode()).stream


def test_an_image_counts_as_so_many_tokens_however_long_it_is() -> None:
    url = "data:image/png;base64," + "A" * 1_000_000
    part = {"type": "image_url", "image_url": {"url": url}}
    facts = facts_of(json.dumps({"messages": [{"role": "user", "content": [part, part]}]}).encode())
    assert facts.tokens == pytest.approx(2 * TOKENS_PER_FILE, abs=100)
    text = facts_of(json.dumps({"prompt": "A" * 1_000_000}).encode())
    assert text.tokens == pytest.approx(1_000_000 / BYTES_PER_TOKEN, abs=100)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"])
def test_nesting_without_end_is_no_json(body: bytes) -> None:
    with pytest.raises(BadJson):
        facts_of(body)


LONG = "".join(f"word{number} " for number in range(1000))


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize(
    "small", [{"input": "x"}, {"query": "x", "prompt": "x"}, {"prompt": [1]}, {"prompt": ["x"]}, {"messages": []}]
)
@pytest.mark.parametrize("large", ["documents", "messages", "suffix", "a field of tomorrow"])
def test_a_small_prompt_hides_no_large_one(policy: Policy, small: dict[str, Any], large: str) -> None:
    body = json.dumps({**small, large: [LONG] * 30}).encode()
    assert facts_of(body, policy).tokens == pytest.approx(len(body) / BYTES_PER_TOKEN, rel=0.05)


def test_what_is_beside_a_prompt_is_in_no_cache() -> None:
    facts = prefix_facts(input=LONG, documents=[LONG] * 30)
    assert facts.blocks and facts.block_tokens == pytest.approx(BLOCK_BYTES / BYTES_PER_TOKEN, rel=0.01)
    assert len(facts.blocks) * facts.block_tokens < facts.tokens / 20


def prefix_facts(**body: Any) -> Facts:
    return facts_of(json.dumps(body).encode(), Policy.PREFIX)


def shared(one: Facts, other: Facts) -> int:
    """How many blocks their beginnings have in common."""
    alike = [a == b for a, b in zip(one.blocks, other.blocks, strict=False)]
    return alike.index(False) if False in alike else len(alike)


def message(text: str, role: str = "user") -> dict[str, str]:
    return {"role": role, "content": text}


@pytest.mark.parametrize("field", ["messages", "input"])
def test_the_next_turn_of_a_conversation_begins_as_the_one_before(field: str) -> None:
    first = [message(LONG, "system"), message("Hello!")]
    later = [*first, message("Hello to you.", "assistant"), message("What now?" * 500)]
    before, after = prefix_facts(**{field: first}), prefix_facts(**{field: later})
    assert len(before.blocks) == len(json.dumps(first)) // BLOCK_BYTES
    assert shared(before, after) == len(before.blocks) < len(after.blocks)
    assert before.block_tokens == pytest.approx(BLOCK_BYTES / BYTES_PER_TOKEN, rel=0.01)


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "other"},
        {"cache_salt": "other"},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"tools": [{"type": "function", "function": {"name": "other"}}]},
        {"system": "other"},
        {"instructions": "other"},
    ],
)
def test_what_comes_before_the_messages_makes_another_beginning(changed: dict[str, Any]) -> None:
    same: dict[str, Any] = {"model": "m", "messages": [message(LONG)]}
    assert shared(prefix_facts(**same), prefix_facts(**same)) > 0
    assert shared(prefix_facts(**same), prefix_facts(**same | changed)) == 0


def test_what_does_not_change_the_prompt_changes_no_block() -> None:
    same = {"model": "m", "messages": [message(LONG)]}
    more = {"temperature": 0, "max_tokens": 3, "user": "u", "stream": True, "response_format": {"type": "json_object"}}
    assert prefix_facts(**same).blocks == prefix_facts(**more, **same).blocks


@pytest.mark.parametrize("prompt", [LONG, [LONG], list(range(5000)), [list(range(5000)), [1]]])
def test_prompts_of_every_kind_have_blocks(prompt: Any) -> None:
    one, other = prefix_facts(prompt=prompt), prefix_facts(prompt=prompt)
    assert shared(one, other) == len(one.blocks) > 0
    assert one.block_tokens * len(one.blocks) == pytest.approx(one.tokens, rel=0.2)


def test_token_ids_are_counted_exactly_and_compared_as_such() -> None:
    ids = list(range(100_000, 101_000))
    blocks, tokens = 1000 * BYTES_PER_TOKEN // BLOCK_BYTES, BLOCK_BYTES / BYTES_PER_TOKEN
    facts = prefix_facts(prompt=ids)
    assert (facts.tokens, len(facts.blocks), facts.block_tokens) == (1000, blocks, tokens)
    assert prefix_facts(prompt=[ids]) == facts
    closely = json.dumps({"prompt": ids}, separators=(",", ":")).encode()
    assert facts_of(closely, Policy.PREFIX).blocks == facts.blocks
    assert shared(facts, prefix_facts(prompt=[*ids[:600], *ids])) == 600 // tokens


@pytest.mark.parametrize("odd", [-1, 1 << 32, "a", [1]])
def test_what_is_no_token_id_makes_the_prompt_a_text(odd: Any) -> None:
    facts = prefix_facts(prompt=[*range(1000), odd])
    assert facts.sequences == 1 and len(facts.blocks) > 3


def test_two_images_of_one_size_are_two_and_each_is_worth_its_tokens() -> None:
    def about(image: str) -> Facts:
        part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + image * 100_000}}
        return prefix_facts(messages=[{"role": "user", "content": [part, {"type": "text", "text": LONG}]}])

    assert shared(about("QUFB"), about("QUFB")) == len(about("QUFB").blocks) > len(LONG) // BLOCK_BYTES + 2
    assert shared(about("QUFB"), about("QUJB")) == 0


FILE = random.Random(1).randbytes(30_000)
SPELLINGS = {
    "base64": base64.b64encode(FILE).decode(),
    "URL-safe": base64.urlsafe_b64encode(FILE).decode(),
    "unpadded": base64.b64encode(FILE[:-2]).decode().rstrip("="),
    "lines": base64.encodebytes(FILE).decode(),
    "lines of mail": base64.encodebytes(FILE).decode().replace("\n", "\r\n"),
    "a short one": base64.b64encode(FILE[:4_000]).decode(),
}
ESCAPES: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    r"\/": lambda text: text.replace("/", r"\/"),
    r"\u002B": lambda text: text.replace("+", r"\u002B").replace("=", r"\u003d"),
    "in a URL": lambda text: text.replace("+", "%2B").replace("=", "%3D"),
    "without blanks": lambda text: text.replace('": ', '":').replace(", ", ","),
    "with blanks": lambda text: text.replace('": ', '" :  '),
}
PARTS: dict[str, Callable[[str], Any]] = {
    "image_url": lambda data: {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
    "plain image_url": lambda data: {"type": "image_url", "image_url": {"url": data}},
    "input_image": lambda data: {"type": "input_image", "image_url": f"data:image/png;charset=x;base64,{data}"},
    "image_embeds": lambda data: {"type": "image_embeds", "image_embeds": data},
    "image_embeds of several": lambda data: {"type": "image_embeds", "image_embeds": {"pixels": data}},
    "file_data": lambda data: {"type": "file", "file": {"filename": "a.pdf", "file_data": data}},
    "an upper-case type": lambda data: {"type": "image_url", "image_url": f"DATA:IMAGE/PNG;BASE64,{data}"},
    "pictures of a video": lambda data: {
        "type": "video_url",
        "video_url": {"url": f"data:video/jpeg;base64,{data},{data},{data}"},
    },
    "file URL": lambda data: {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{data}"}},
    "input_audio": lambda data: {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
    "video_url": lambda data: {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{data}"}},
    "Anthropic's": lambda data: {"type": "image", "source": {"type": "base64", "data": data}},
}


@pytest.mark.parametrize("policy", [Policy.PREFIX, Policy.LEAST_LOAD])
def test_a_file_is_worth_its_tokens_in_every_spelling(policy: Policy) -> None:
    for part, spelling, escape in itertools.product(PARTS, SPELLINGS, ESCAPES):
        message = {"role": "user", "content": [{"type": "text", "text": "What?"}, PARTS[part](SPELLINGS[spelling])]}
        body = ESCAPES[escape](json.dumps({"model": "m", "messages": [message]})).encode()
        facts = facts_of(body, policy)
        expected = pytest.approx(TOKENS_PER_FILE, abs=60 if len(body) > 10_000 else 500)
        assert facts.tokens == expected, (part, spelling, escape)


def test_each_of_several_files_counts() -> None:
    one, other, third = (SPELLINGS[name] for name in ("base64", "URL-safe", "lines"))
    parts = [PARTS["plain image_url"](one), PARTS["image_url"](other), PARTS["input_audio"](third)]
    assert prefix_facts(messages=[{"role": "user", "content": parts}]).tokens == pytest.approx(3000, abs=150)
    assert facts_of(json.dumps({"images": [one, other, third]}).encode()).tokens == pytest.approx(3000, abs=50)
    page = f"An ![image](data:image/png;base64,{one}) and ![another](data:image/png;base64,{other})."
    assert prefix_facts(messages=[message(page)]).tokens == pytest.approx(2000, abs=50)


@pytest.mark.parametrize(
    "text", ["deadbeef" * 500, SPELLINGS["base64"], "\u6f22\u5b57" * 2_000, "a\n" * 4_000, "x" * 9_999]
)
def test_a_long_text_that_looks_like_a_file_counts_as_text(text: str) -> None:
    bodies: list[dict[str, Any]] = [
        {"prompt": text},
        {"input": text},
        {"input": ["one", text, "two"]},
        {"instructions": text, "input": "x"},
        {"messages": [message(text)]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": json.dumps({"a": text})}}]}]},
    ]
    for body, policy in itertools.product(bodies, (Policy.PREFIX, Policy.LEAST_LOAD)):
        written = json.dumps(body, ensure_ascii=False).encode()
        assert facts_of(written, policy).tokens == pytest.approx(len(written) / BYTES_PER_TOKEN, abs=50)


@pytest.mark.parametrize("word", ["", "A" * 3_000, '"', "data:;base64,", "\\", ";base64," + "A," * 1_100])
def test_how_long_files_are_looked_for_grows_with_the_text_and_no_faster(word: str) -> None:
    def once(text: bytes) -> float:
        began = time.process_time()
        list(files_of(text))
        return time.process_time() - began

    def seconds(count: int) -> float:
        text = (f'"{word}",' * count + " " * count + "x" * 4 * count).encode()
        return min(once(text) for _ in range(3))  # other programs disturb some of them

    assert seconds(8_000) < 40 * seconds(400) + 0.05, "20 times as long"


def test_a_session_is_what_the_header_or_the_body_calls_it() -> None:
    def of(session: bytes | None = None, **body: str) -> int:
        return facts_of(json.dumps(body).encode(), Policy.SESSION, session).affinity

    assert of() == 0
    named = {of(b"1"), of(b"2"), of(user="a"), of(user="b"), of(prompt_cache_key="k", user="a")}
    assert len(named) == 5 and 0 not in named
    assert of(b"1", user="a") == of(b"1")


def test_one_beginning_has_one_hash_however_the_prompt_goes_on() -> None:
    def of(**body: Any) -> int:
        return facts_of(json.dumps(body).encode(), Policy.CONSISTENT_HASH).affinity

    assert of(prompt=LONG) == of(prompt=LONG + "more") != of(prompt="x" + LONG)
    assert of(prompt="short") != of(prompt="other")
