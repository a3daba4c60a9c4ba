"""Who may use the endpoint, and which keys an engine sees."""

import functools
from collections.abc import Iterator
from pathlib import Path

import programs
import pytest
import scripted
import wire
from scripted import Engines

from dp_vllm.engine.routes import ROUTES
from dp_vllm.errors import BadSettings
from dp_vllm_gateway.app import OPEN_PATHS
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
        for path in ("/health", "/ping", "/ready", "/version", "/docs", "/redoc"):
            assert status(gateway.url, path=path, method="GET") == 200
        for key in ("right", "second"):
            assert status(gateway.url, {"authorization": f"Bearer {key}"}) == 200
            assert status(gateway.url, {"authorization": f"bearer  {key} "}) == 200
            assert status(gateway.url, {"x-api-key": key}) == 200


@pytest.mark.parametrize("framing", [{"content-length": "1000000"}, {"transfer-encoding": "chunked"}])
@pytest.mark.parametrize("path", [*sorted(OPEN_PATHS), "/version/", "/%76ersion"])
def test_what_needs_no_key_takes_no_body_and_no_other_method(
    guarded: str, engines: Engines, path: str, framing: dict[str, str]
) -> None:
    for method in ("GET", "HEAD", "OPTIONS"):
        with wire.line(guarded) as line:
            line.send(wire.request(method, path, headers=framing))
            answer = line.answer(method)
            assert answer.status == 400
            assert method == "HEAD" or answer.error["code"] == "unexpected_body"
    for method in ("POST", "PUT", "DELETE"):
        with wire.line(guarded) as line:
            line.send(wire.request(method, path, headers=framing))
            assert line.answer(method).status == 401
    assert wire.ask(guarded, "GET", path, b"").status == 200
    assert not any(one.body for engine in engines for one in engine.asked)


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
    keys.write_bytes(b"\xef\xbb\xbfc2VjcmV0IQ==\r\n\n# of alice\n  alice: hers  \r\n")
    with scripted.gateway(tmp_path, engines, "--api-key-file", str(keys)) as gateway:
        assert status(gateway.url, {"x-api-key": "c2VjcmV0IQ=="}) == 200
        assert status(gateway.url, {"x-api-key": "hers"}) == 200
        for wrong in ("=", "c2VjcmV0IQ", "alice: hers", "# of alice", "alice:", "alice"):
            assert status(gateway.url, {"x-api-key": wrong}) == 401
        keys.write_text("other\nalice=hers\n")
        programs.wait_until(lambda: status(gateway.url, {"x-api-key": "hers"}) == 401, "the file is read again")
        assert status(gateway.url, {"x-api-key": "other"}) == 200, "a wrong line does no harm to the others"
        assert f"the key file {keys}: line 2: `=` is a part of the key" in gateway.output()
        assert wire.ask(gateway.url, "GET", "/ready").status == 200
        keys.write_text("\n")
        programs.wait_until(lambda: status(gateway.url, {"x-api-key": "other"}) == 401, "no client has a key")
        answer = wire.ask(gateway.url, "GET", "/ready")
        assert (answer.status, answer.error["code"]) == (503, "no_keys")
        keys.unlink()
        programs.wait_until(
            lambda: "cannot be read" in wire.ask(gateway.url, "GET", "/ready").error["message"], "the loss is seen"
        )
        assert status(gateway.url, {"x-api-key": "other"}) == 401, "a lost file opens nothing"
        assert "hers" not in gateway.output().replace("others", "")


def refused(tmp_path: Path, *flags: str, exit_status: int, env: dict[str, str] | None = None) -> str:
    """What a gateway says that does not start."""
    argv = programs.python("-m", "dp_vllm_gateway", "--replica", "http://127.0.0.1:1", *flags)
    with programs.running(argv, tmp_path / "log", env=env) as program:
        assert program.wait() == exit_status
        assert "Traceback" not in program.output()
        return program.output()


@pytest.mark.parametrize(
    ("content", "problem"),
    [("\n", "holds no key"), (None, "cannot be read"), ("fine\nalice: her key\n", ": line 2: a line is `KEY`")],
)
def test_a_key_file_that_is_not_right_is_refused_at_the_start(
    tmp_path: Path, content: str | None, problem: str
) -> None:
    keys = tmp_path / "keys"
    if content is not None:
        keys.write_text(content)
    said = refused(tmp_path, "--api-key-file", str(keys), exit_status=1)
    assert "--api-key-file" in said and problem in said
    assert "her key" not in said


@pytest.mark.parametrize("flag", ["--api-key", "--admin-api-key", "--replica-api-key"])
def test_a_text_that_is_no_key_is_refused_at_the_start(tmp_path: Path, flag: str) -> None:
    for text in ("", " ", "two words"):
        said = refused(tmp_path, flag, text, exit_status=2)
        assert f"'{flag}': a key has 1 to" in said and "two words" not in said


def test_a_variable_that_holds_no_key_is_refused_at_the_start(tmp_path: Path) -> None:
    for variable in ("DP_VLLM_API_KEY", "DP_VLLM_ADMIN_API_KEY"):
        assert f"{variable}: a key has 1 to" in refused(tmp_path, exit_status=2, env={variable: " "})


# what only administrators may


ADMIN_ROUTES = [(route.method, route.path.replace("{name}", "x")) for route in ROUTES if route.admin]


@pytest.fixture(scope="module")
def two_sorts(both_engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[programs.Program]:
    """A gateway with the key `right` and the administrator's key `ops`."""
    flags = ("--api-key", "right", "--admin-api-key", "ops", "--allow-unsafe-routes")
    with scripted.gateway(tmp_path_factory.mktemp("admins"), both_engines, *flags) as program:
        yield program


def test_what_concerns_the_whole_deployment_needs_an_administrators_key(
    two_sorts: programs.Program, engines: Engines
) -> None:
    assert len(ADMIN_ROUTES) > 30
    for method, path in ADMIN_ROUTES:
        answer = wire.ask(two_sorts.url, method, path, b"{}" if method == "POST" else None, RIGHT)
        assert (answer.status, answer.error["type"], answer.error["code"]) == (
            *(403, "permission_error", "admin_key_required"),
        ), path
        assert status(two_sorts.url, path=path, method=method) == 401
        for other in ("GET", "PUT", "DELETE", "PROPFIND"):
            assert status(two_sorts.url, RIGHT, path=path, method=other) == 403, (other, path)
    assert not any(engine.asked for engine in engines)
    for method, path in ADMIN_ROUTES:
        assert status(two_sorts.url, {"authorization": "Bearer ops"}, path=path, method=method) == 200, path
    assert all(engine.asked for engine in engines)
    for key in ("right", "ops"):
        assert status(two_sorts.url, {"x-api-key": key}) == 200
        for path in ("/v1/models", "/is_sleeping", "/is_paused", "/metrics"):
            assert status(two_sorts.url, {"x-api-key": key}, path=path, method="GET") == 200
    programs.wait_until(lambda: "key=admin1" in two_sorts.output(), "the log calls the key by its name")


def test_a_lost_mark_makes_nobody_an_administrator(engines: Engines, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("right\n")
    with scripted.gateway(tmp_path, engines, "--api-key-file", str(keys)) as gateway:
        sleep = functools.partial(status, gateway.url, path="/sleep")
        assert sleep(RIGHT) == 200, "without a mark every key may do everything"
        keys.write_text("right\nops (admin): hers\n")
        programs.wait_until(lambda: sleep(RIGHT) == 403, "the file is read again")
        assert sleep({"authorization": "Bearer hers"}) == 200
        keys.write_text("right\nhers\n")
        programs.wait_until(lambda: sleep({"authorization": "Bearer hers"}) == 403, "the file is read again")
        assert sleep(RIGHT) == 403
