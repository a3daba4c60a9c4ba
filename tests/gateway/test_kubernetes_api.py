"""The connection to an API server: what it is logged in with, and what is no answer."""

import datetime
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scripted
from scripted import whole
from scripted_api import ApiServer, api_server, refusing, status

from dp_vllm import __version__, kubernetes_api
from dp_vllm.errors import UserError
from dp_vllm.kubernetes_api import ApiError, Silence, Unreachable

CONTEXT = "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n"
CLUSTER = "clusters: [{name: c, cluster: {server: 'https://x'}}]\n"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with api_server() as server:
        server.kubeconfig(tmp_path / "kubeconfig")
        yield server


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "just text",
        "[]",
        "{",
        "apiVersion: v1",
        "current-context: x\ncontexts: []",
        "current-context: x\ncontexts: 3",
        "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]\n" + CLUSTER,
        CONTEXT + CLUSTER + "users: [{name: u, user: {tokenFile: /none}}]",
        CONTEXT + "clusters: [{name: c, cluster: {server: 'https://x', certificate-authority-data: '%'}}]\nusers: []",
        CONTEXT
        + "clusters: [{name: c, cluster: {server: 'https://x', certificate-authority-data: YWJj}}]\n"
        + "users: [{name: u, user: {}}]",
        "\x00",
    ],
)
async def test_a_kubeconfig_that_cannot_be_used_is_named(server: ApiServer, tmp_path: Path, text: str | None) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.unlink() if text is None else kubeconfig.write_text(text)
    with pytest.raises(UserError, match=f"no Kubernetes to log in to, with the kubeconfig {kubeconfig}"):
        async with kubernetes_api.connect():
            pass


async def test_a_kubeconfig_that_is_missing_is_said_to_be(server: ApiServer, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").unlink()
    with pytest.raises(UserError, match=r"kubeconfig \(KUBECONFIG names another\): there is no such file$"):
        async with kubernetes_api.connect():
            pass


async def test_who_asks_is_told(server: ApiServer) -> None:
    async with kubernetes_api.connect() as api:
        await api.request("GET", "/api/v1/pods")
    assert server.asked[0].headers["user-agent"] == f"dp-vllm/{__version__}"


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (whole(404, status(404, "NotFound", 'pods "x" not found')), ApiError, '404 NotFound: pods "x" not found'),
        (whole(502, b"<html>Bad Gateway</html>"), ApiError, "502: <html>Bad Gateway</html>"),
        (whole(500, b"[]"), ApiError, "500: []"),
        (whole(200, b"<html>Log in</html>"), Unreachable, "is no API server"),
        (b"", Unreachable, "GET /api/v1/pods"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", Unreachable, "GET /api/v1/pods"),
        (b"SSH-2.0\r\n\r\n", Unreachable, "GET /api/v1/pods"),
    ],
)
async def test_a_refusal_has_the_servers_words_and_what_is_no_answer_is_called_so(
    server: ApiServer, answer: bytes, kind: type[Exception], says: str
) -> None:
    server.on_list = scripted.then_closing(answer)
    async with kubernetes_api.connect() as api:
        with pytest.raises(kind) as raised:
            await api.request("GET", "/api/v1/pods", seconds=5)
        assert says in str(raised.value)


async def test_an_answer_that_does_not_come_is_not_waited_for(server: ApiServer) -> None:
    server.on_list = lambda peer, asked: None
    async with kubernetes_api.connect() as api:
        with pytest.raises(Unreachable, match="TimeoutError"):
            await api.request("GET", "/api/v1/pods", seconds=0.1)


@pytest.mark.parametrize(("hours", "runs"), [(1, 1), (-1, 3)], ids=["good for an hour", "expired"])
async def test_a_plugin_is_run_again_when_its_token_has_expired(
    server: ApiServer, tmp_path: Path, hours: int, runs: int
) -> None:
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
    said: dict[str, Any] = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "good", "expirationTimestamp": until.strftime("%Y-%m-%dT%H:%M:%SZ")},
    }
    plugin = f"open({str(tmp_path / 'runs')!r}, 'a').write('x'); print({json.dumps(said)!r})"
    config = json.loads((tmp_path / "kubeconfig").read_text())
    config["users"][0]["user"]["exec"] = {
        "apiVersion": said["apiVersion"],
        "command": sys.executable,
        "args": ["-c", plugin],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    async with kubernetes_api.connect(renew_seconds=0) as api:
        for _ in range(2):
            await api.request("GET", "/api/v1/pods")
    assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer good"] * 2
    assert (tmp_path / "runs").read_text() == "x" * runs


async def test_a_token_file_is_read_again_as_it_ages(server: ApiServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first")
    server.kubeconfig(tmp_path / "kubeconfig", tokenFile=str(tmp_path / "token"))
    async with kubernetes_api.connect() as lasting, kubernetes_api.connect(renew_seconds=0) as renewed:
        for token in ("first", "second", ""):
            (tmp_path / "token").write_text(token)
            for api in (lasting, renewed):
                await api.request("GET", "/api/v1/pods")
        (tmp_path / "token").unlink()
        await renewed.request("GET", "/api/v1/pods")
    tokens = [asked.headers["authorization"].removeprefix("Bearer ") for asked in server.asked]
    assert tokens == ["first", "first", "first", "second", "first", "second", "second"]


async def test_a_stream_without_a_word_is_given_up(server: ApiServer) -> None:
    async with kubernetes_api.connect() as api:
        with pytest.raises(Silence, match="nothing for"):
            async for _ in api.lines("/api/v1/pods", {"watch": "1", "resourceVersion": "1"}, silence_seconds=0.2):
                pass


async def test_a_refused_watch_is_an_error_too(server: ApiServer) -> None:
    server.on_watch = refusing(403, "Forbidden")
    async with kubernetes_api.connect() as api:
        with pytest.raises(ApiError) as refused:
            async for _ in api.lines("/api/v1/pods", {"watch": "1"}, silence_seconds=5):
                pass
    assert (refused.value.status, refused.value.reason) == (403, "Forbidden")
