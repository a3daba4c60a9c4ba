"""Which keys a file holds: exactly those that are written in it."""

import base64
import os
import random
from pathlib import Path

import pytest

from dp_vllm import api_keys
from dp_vllm.api_keys import ApiKey, load, only_key, read, written

RULE = api_keys.RULE
FORM = "a line is `KEY`, `NAME: KEY` or `NAME (admin): KEY`; a name has at most 63 of A-Za-z0-9._@+-"
EQUALS = "`=` is a part of the key and ends no name: write `NAME: KEY`, also for a key that has `=` before its end"


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (b"c2VjcmV0IQ==", [ApiKey("c2VjcmV0IQ==", "line1")]),
        (b"=", [ApiKey("=", "line1")]),
        (b"one\n\n  two\t\r\nthree\r\n", [ApiKey("one", "line1"), ApiKey("two", "line3"), ApiKey("three", "line4")]),
        (b"\xef\xbb\xbfone\r\n", [ApiKey("one", "line1")]),
        (b"# of \xc3\xa4 person\n\t#none\nkey#1", [ApiKey("key#1", "line3")]),
        (b"alice: hers\nbob:\t his", [ApiKey("hers", "alice"), ApiKey("his", "bob")]),
        (b"alice: a=b\nbob: #1:", [ApiKey("a=b", "alice"), ApiKey("#1:", "bob")]),
        (b"alice:hers", [ApiKey("alice:hers", "line1")]),
        (b"ops (admin): x\nci(admin): y", [ApiKey("x", "ops", admin=True), ApiKey("y", "ci", admin=True)]),
        (b"admin\nops: admin:", [ApiKey("admin", "line1"), ApiKey("admin:", "ops")]),
        (b"", []),
    ],
)
def test_a_line_is_a_key_with_or_without_a_name(text: bytes, keys: list[ApiKey]) -> None:
    found = read(text)
    assert (list(found.keys), found.problems) == (keys, ())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"two words", FORM),
        (b"alice: hers # since May", FORM),
        (b"hers alice", FORM),
        (b"Bearer hers", FORM),
        (b": hers", FORM),
        (b"alice : hers", FORM),
        (b"-x: hers", FORM),
        (b"a" * 64 + b": hers", FORM),
        (b"alice (root): hers", FORM),
        (b"alice=hers", EQUALS),
        (b"export-KEY=c2VjcmV0==", EQUALS),
        (b"alice:", "a name without a key; a key that ends with a colon needs a name before it"),
        (b"alice (admin):", FORM),
        (b"Admin: hers", "`admin` is a mark and no name: write `NAME (admin): KEY`"),
        ("schl\u00fcssel".encode(), RULE),
        (b"alice: schl\xfcssel", RULE),
        (b"a\x00b", RULE),
        (b"a\x7f", RULE),
        (b"a\rb", RULE),
        (b"a\x0cb", RULE),
        (b"x" * 4097, RULE),
        (b"good", "another line has this key"),
        (b"again: good", "another line has this key"),
        (b"line1: other", "another key has the name line1"),
    ],
)
def test_an_odd_line_is_an_error_that_names_it_and_does_not_quote_it(text: bytes, problem: str) -> None:
    found = read(b"good\n# comment\n" + text + b"\nbetter")
    assert [each.key for each in found.keys] == ["good", "better"]
    assert found.problems == (f"line 3: {problem}",)


def test_a_file_in_another_encoding_holds_no_key() -> None:
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        assert not read("key\nalice: other\n".encode(encoding)).keys


def test_no_key_meets_the_rule_for_names() -> None:
    rng = random.Random(7)
    visible = "".join(map(chr, range(0x21, 0x7F)))
    for _ in range(2000):
        key = base64.b64encode(rng.randbytes(rng.randint(1, 40))).decode()
        assert [each.key for each in read(key.encode()).keys] == [key]
        odd = "".join(rng.choices(visible, k=rng.randint(1, 12)))
        text = written("a", odd) + written("b", odd + "x", admin=True)
        assert read(text.encode()).keys == (ApiKey(odd, "a"), ApiKey(odd + "x", "b", admin=True))
        assert {each.key for each in read(odd.encode()).keys} <= {odd}


def test_many_problems_are_one_sentence() -> None:
    assert read(b"a b\n" * 5).problem == f"line 1: {FORM}; line 2: {FORM}; line 3: {FORM}; and 2 more"


def test_a_file_is_read_in_bounds(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"k" * (1 << 20))
    assert len(load(path)) == 1 << 20
    path.write_bytes(b"k" * ((1 << 20) + 1))
    with pytest.raises(OSError, match="more than 1 MiB"):
        load(path)
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            load(other)


@pytest.mark.parametrize("text", [b"", b"two keys", b"one\nother", b"\x00", b"schl\xc3\xbcssel", b"# key"])
def test_a_file_with_one_key_holds_nothing_else(text: bytes) -> None:
    assert only_key(b"\xef\xbb\xbftheirs==\r\n") == "theirs=="
    with pytest.raises(ValueError, match=RULE):
        only_key(text)
