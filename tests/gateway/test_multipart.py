"""Which model a form names, however a client writes the form."""

import random

import httpx2
import pytest

from dp_vllm_gateway.multipart import MAX_PARTS, WINDOW_BYTES, is_true, text_field

TYPE = b"multipart/form-data; boundary=B"


def part(head: str, value: bytes = b"small", boundary: bytes = b"B") -> bytes:
    return b"--" + boundary + b"\r\n" + head.encode() + b"\r\n\r\n" + value + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--B--\r\n"


def named(parameters: str) -> str:
    return f"Content-Disposition: form-data; {parameters}"


MODEL = named('name="model"')
FILE = named('name="file"; filename="a.wav"') + "\r\nContent-Type: audio/wav"
BIG = b"\0\r\n--" * WINDOW_BYTES


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (form(part(MODEL)), "small"),
        (form(part(FILE, b"\0\1"), part(MODEL)), "small"),
        (form(part(FILE, BIG), part(MODEL)), "small"),
        (form(part(MODEL), part(FILE, BIG)), "small"),
        (form(part(MODEL, b"one"), part(FILE, BIG), part(MODEL, b"two")), "two"),
        (form(part(MODEL, b"one"), part(MODEL, b"two")), "two"),
        (form(part(FILE, BIG), part(MODEL), part(FILE, BIG)), None),
        (form(part("CONTENT-DISPOSITION:form-data ;NAME=model")), "small"),
        (form(part("content-type: text/plain\r\n" + MODEL + "\r\nx: y")), "small"),
        (form(part(named('x="; name=other"; name="model"'))), "small"),
        (form(part(named('x="\\"; name=other"; name="model"'))), "small"),
        (form(part(named('name="mod\\el"'))), None),
        (form(part(named('name="mod\\"el"'))), None),
        (form(part(named("name='model'"))), None),
        (form(part(named('name="Model"'))), None),
        (form(part(named('xname="model"'))), None),
        (form(part(named('name="x"; filename="; name=\\"model\\""'))), None),
        (form(part(named('name="model"; filename="model"'))), None),
        (form(part(named("name=model; filename*=utf-8''x"))), None),
        (form(part("X-Content-Disposition: form-data; name=model")), None),
        (form(part(named('name="prompt"'), b'name="model"\r\n\r\nlarge')), None),
        (form(part(MODEL, "gr\u00f6\u00dfe".encode())), "gr\u00f6\u00dfe"),
        (form(part(MODEL, b"\xff")), "\ufffd"),
        (form(part(MODEL, b"")), ""),
        (form(part(MODEL, b"a\r\n\r\nb")), "a\r\n\r\nb"),
        (form(part(MODEL, b"x" * 1024)), "x" * 1024),
        (form(part(MODEL, b"x" * 1025)), None),
        (form(part("x: " + "y" * 9000 + "\r\n" + MODEL)), None),
        (form(*[part(FILE, b"")] * (MAX_PARTS - 1), part(MODEL)), "small"),
        (form(part(MODEL), *[part(FILE, b"")] * MAX_PARTS), None),
        (b"a preamble\r\n" + form(part(MODEL)) + b"and more", "small"),
        (part(MODEL), None),
        (form(part(MODEL)).replace(b"\r\n", b"\n"), None),
        (form(part(MODEL, boundary=b"A")), None),
        (b"--B--\r\n", None),
        (b"--x--", None),
        (b"\r\n--B" * 40000, None),
        (b"", None),
    ],
)
def test_the_last_text_field_of_the_name_counts(body: bytes, model: str | None) -> None:
    assert text_field(body, TYPE, b"model") == model


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        *((word, True) for word in ("true", "True", "1", "yes", "ON")),
        *((word, False) for word in ("false", "0", "", "x")),
    ],
)
def test_a_field_may_say_yes(value: str, meant: bool) -> None:
    body = form(part(FILE, BIG), part(named('name="stream"'), value.encode()))
    assert is_true(body, TYPE, b"stream") is meant
    assert not is_true(body, TYPE, b"streams")


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"Multipart/Form-Data;Boundary=B", b"B"),
        (b'multipart/form-data; charset=utf-8; boundary="a b:\\"c"', b'a b:"c'),
        (b"multipart/form-data; boundary=" + b"x" * 70, b"x" * 70),
    ],
)
def test_a_boundary_may_be_quoted(content_type: bytes, boundary: bytes) -> None:
    body = part(MODEL, boundary=boundary) + b"--" + boundary + b"--"
    assert text_field(body, content_type, b"model") == "small"


@pytest.mark.parametrize(
    "content_type",
    [
        b"",
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b'multipart/form-data; boundary=""',
        b'multipart/form-data; boundary="B',
        b"multipart/form-data, boundary=B",
        b"multipart/mixed; boundary=B",
        b"application/json; boundary=B",
        b"multipart/form-data; boundary=" + b"B" * 71,
    ],
)
def test_any_other_body_is_no_form(content_type: bytes) -> None:
    assert text_field(form(part(MODEL)), content_type, b"model") is None


def test_what_a_client_writes_is_read() -> None:
    rng = random.Random(3)
    alphabet = "abcMODEL/:-_ \"'\\;=\u00e4\u4e00%\t"
    for _ in range(300):
        fields = ["language", "model", "prompt", "temperature", 'mo"del', "model;", "model\\"]
        rng.shuffle(fields)
        fields = fields[: rng.randint(1, len(fields))]
        data = {name: "".join(rng.choices(alphabet, k=rng.randint(0, 30))) for name in fields}
        files = {"file": (rng.choice(["a.wav", 'name="model"', "ä;.wav"]), rng.randbytes(rng.randint(0, 200_000)))}
        request = httpx2.Request("POST", "http://x", data=data, files=files)
        found = text_field(request.read(), request.headers["content-type"].encode(), b"model")
        assert found == data.get("model"), data
