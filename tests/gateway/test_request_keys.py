"""Who may use the endpoint, and which keys an engine sees."""

from collections.abc import Iterator
from pathlib import Path

import programs
import pytest
import scripted
import wire
from scripted import Engines

from dp_vllm.errors import BadSettings
from dp_vllm_gateway.keys import replica_key

COMPLETIONS = "/v1/completions"
RIGHT = {"authorization": "Bearer right"}


def status(url: str, headers: dict[str, str] | None = None, path: str = COMPLETIONS, method: str = "POST") -> int:
    return wire.ask(url, method, path, b"{}" if method == "POST" else None, headers).status


def test_every_path_but_a_few_wants_a_key(engines: Engines, tmp_path: Path) -> None:
    with scripted.gateway(tmp_path, engines, "--api-key", "right", "--api-key", "second") as gateway:
        for path in ("/v1/completions", "/tokenize", "/invocations", "/pooling", "/sleep", "/adapters", "/any"):
            assert status(gateway.url, path=path) == 401
        for path in ("/v1/models", "/load", "/metrics", "/is_sleeping", "/server_info"):
            assert status(gateway.url, path=path, method="GET") == 401
        assert not any(engine.asked for engine in engines)
        for path in ("/health", "/ready", "/version", "/docs", "/redoc"):
            assert status(gateway.url, path=path, method="GET") == 200
        for key in ("right", "second"):
            assert status(gateway.url, {"authorization": f"Bearer {key}"}) == 200
            assert status(gateway.url, {"authorization": f"bearer  {key} "}) == 200
            assert status(gateway.url, {"x-api-key": key}) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer "},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer right wrong"},
        {"authorization": "Bearer Right"},
        {"authorization": "Basic right"},
        {"authorization": "right"},
        {"authorization": "Bearer r\xefght"},
        {"authorization": "Bearer wrong", "x-api-key": "right"},
        {"x-api-key": ""},
        {"x-api-key": "\xff\xfe"},
    ],
)
def test_anything_else_is_401_before_the_body_is_read(guarded: str, engines: Engines, headers: dict[str, str]) -> None:
    with wire.line(guarded) as line:
        line.send(wire.request("POST", COMPLETIONS, headers={**headers, "content-length": "1000"}))
        answer = line.answer()
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert answer.error["type"] == "authentication_error"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert not any(engine.asked for engine in engines)


@pytest.fixture(scope="module")
def guarded_program(both_engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with scripted.gateway(tmp_path_factory.mktemp("guarded"), both_engines, "--api-key", "right") as program:
        yield program.url


@pytest.fixture
def guarded(guarded_program: str) -> str:
    """Where a gateway listens that wants the key `right`."""
    return guarded_program


def test_the_clients_key_goes_no_further(guarded: str, engines: Engines) -> None:
    assert status(guarded, {**RIGHT, "x-api-key": "also"}) == 200
    (seen,) = [asked.headers for engine in engines for asked in engine.asked]
    assert "authorization" not in seen and "x-api-key" not in seen


def test_without_keys_of_its_own_the_gateway_passes_the_clients_on(url: str, engines: Engines) -> None:
    assert status(url, {"authorization": "Bearer theirs", "x-api-key": "also"}) == 200
    (seen,) = [asked.headers for engine in engines for asked in engine.asked]
    assert (seen["authorization"], seen["x-api-key"]) == ("Bearer theirs", "also")


def test_foreign_engines_are_sent_the_key_that_they_want(engines: Engines, tmp_path: Path) -> None:
    flags = ("--api-key", "right", "--replica-api-key", "theirs")
    with scripted.gateway(tmp_path, engines, *flags) as gateway:
        assert status(gateway.url, RIGHT) == 200
    (seen,) = [asked.headers for engine in engines for asked in engine.asked]
    assert seen["authorization"] == "Bearer theirs"


def test_the_engines_key_may_be_in_a_file(engines: Engines, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("theirs\n")
    with scripted.gateway(tmp_path, engines, "--replica-api-key-file", str(tmp_path / "key")) as gateway:
        assert status(gateway.url) == 200
    (seen,) = [asked.headers for engine in engines for asked in engine.asked]
    assert seen["authorization"] == "Bearer theirs"
    for text in ("", "two keys", "one\nother", "\x00"):
        (tmp_path / "key").write_text(text)
        with pytest.raises(BadSettings, match=r"--replica-api-key-file: .* does not hold one key"):
            replica_key(None, tmp_path / "key")


@pytest.mark.parametrize("variable", ["DP_VLLM_API_KEY", "VLLM_API_KEY"])
def test_keys_may_come_from_the_environment(
    engines: Engines, tmp_path: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "right")
    with scripted.gateway(tmp_path, engines) as gateway:
        assert status(gateway.url) == 401
        assert status(gateway.url, RIGHT) == 200


def test_a_key_file_is_read_again_when_it_changes(engines: Engines, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("right\n\n  alice=hers  \n")
    with scripted.gateway(tmp_path, engines, "--api-key-file", str(keys)) as gateway:
        assert status(gateway.url, RIGHT) == 200
        assert status(gateway.url, {"x-api-key": "hers"}) == 200
        assert status(gateway.url, {"x-api-key": "alice=hers"}) == 401
        keys.write_text("other")
        programs.wait_until(lambda: status(gateway.url, RIGHT) == 401, "the file is read again")
        assert status(gateway.url, {"x-api-key": "other"}) == 200
        keys.write_text("\n")
        programs.wait_until(lambda: status(gateway.url, {"x-api-key": "other"}) == 401, "nobody has a key")
        answer = wire.ask(gateway.url, "GET", "/ready")
        assert (answer.status, answer.error["code"]) == (503, "no_keys")
        keys.unlink()
        programs.wait_until(
            lambda: "cannot be read" in wire.ask(gateway.url, "GET", "/ready").error["message"], "the loss is seen"
        )
        assert status(gateway.url, RIGHT) == 401, "a lost file opens nothing"


def test_a_key_file_without_keys_is_refused_at_the_start(tmp_path: Path) -> None:
    empty = tmp_path / "keys"
    empty.write_text("\n")
    for file, problem in ((empty, "holds no key"), (tmp_path / "none", "cannot be read")):
        argv = programs.python("-m", "dp_vllm_gateway", "--replica", "http://127.0.0.1:1", "--api-key-file", str(file))
        with programs.running(argv, tmp_path / "log") as program:
            assert program.wait() == 1
            assert "--api-key-file" in program.output() and problem in program.output()
            assert "Traceback" not in program.output()
