"""Where a batch is sent: the endpoint's address, and one HTTP exchange with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import msgspec

from dp_vllm import names
from dp_vllm.batch.again import Failed
from dp_vllm.batch.answers import Response
from dp_vllm.batch.requests import Request
from dp_vllm.errors import BadSettings, UserError
from dp_vllm.local.runs import running

_CONNECT_SECONDS: Final = 10.0
_TOLD_MOST: Final = 200
_GUESSED_SECONDS: Final = 5.0
OF_BATCHES: Final = "batch-"
"""How the names of runs begin that are for one batch alone."""
_UNIX: Final = "unix:"
EACH: Final = 256
"""Requests at once for each replica: as many as an engine works on together by default (--max-num-seqs)."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI endpoint."""

    url: str
    """`http://host:8000`, without the path `/v1`, or `unix:/path`."""
    key: str = ""
    replicas: int = 1
    """As many as are known of."""
    begin_seconds: float | None = None
    """How long it may take until it answers at all; None for as long as a request is tried again."""

    def address(self, path: str) -> str:
        return f"http://localhost{path}" if self.url.startswith(_UNIX) else self.url + path


def named(url: str, key: str) -> Endpoint:
    """The endpoint that `--base-url` names, in the form that OpenAI's client takes too."""
    if not url.startswith(("http://", "https://", f"{_UNIX}/")):
        raise BadSettings(f"--base-url: {url!r} is no address; give one like http://127.0.0.1:8000 or unix:/path")
    return Endpoint(url.rstrip("/").removesuffix("/v1").rstrip("/"), key)


def found(environ: Mapping[str, str], key: str) -> Endpoint:
    """The only run of this user that is not for another batch, else what listens on the default port."""
    runs = {name: record for name, record in running(environ).items() if not name.startswith(OF_BATCHES)}
    if len(runs) > 1:
        raise UserError(
            "several runs are there; say which with --base-url "
            + " or ".join(f"{record.url} ({name}: {record.model})" for name, record in runs.items())
        )
    for record in runs.values():
        return Endpoint(record.url, key, max(1, sum(name != "gateway" for name in record.children)))
    # Nobody said that there is one.
    return Endpoint(f"http://127.0.0.1:{names.DEFAULT_PORT}", key, begin_seconds=_GUESSED_SECONDS)


class Client:
    """Connections to an endpoint. Used with `async with`."""

    def __init__(self, endpoint: Endpoint, *, connections: int, priority: int, timeout_seconds: float) -> None:
        self._endpoint = endpoint
        self._headers = {"Content-Type": "application/json", names.PRIORITY_HEADER: str(priority)}
        if endpoint.key:
            self._headers["Authorization"] = f"Bearer {endpoint.key}"
        unix = endpoint.url.removeprefix(_UNIX) if endpoint.url.startswith(_UNIX) else None
        self._connector: aiohttp.BaseConnector = (
            aiohttp.UnixConnector(unix, limit=connections) if unix else aiohttp.TCPConnector(limit=connections)
        )
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=_CONNECT_SECONDS)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Client":
        self._session = aiohttp.ClientSession(
            connector=self._connector, headers=self._headers, timeout=self._timeout, auto_decompress=True
        )
        return self

    async def __aexit__(self, *reason: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def ask(self, request: Request) -> tuple[Response | None, Failed]:
        """One attempt: what was answered, None without an answer; and what it means for another attempt."""
        return await self._exchange("POST", request.path, request.body)

    async def look(self) -> tuple[Response | None, Failed]:
        """Whether it serves."""
        return await self._exchange("GET", "/v1/models", None)

    async def _exchange(self, method: str, path: str, content: bytes | None) -> tuple[Response | None, Failed]:
        assert self._session is not None
        try:
            async with self._session.request(method, self._endpoint.address(path), data=content) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return None, Failed(None, reason=getattr(error, "strerror", None) or str(error) or type(error).__name__)
        headers = answer.headers
        response = Response(answer.status, headers.get("x-request-id", ""), _body(body))
        failed = Failed(
            answer.status,
            headers.get("retry-after", ""),
            headers.get("x-should-retry", ""),
            _reason(answer.status, body),
        )
        return response, failed


class _Refusal(msgspec.Struct):
    """An error in OpenAI's words."""

    class Error(msgspec.Struct):
        message: str

    error: Error


def _reason(status: int, body: bytes) -> str:
    """In one line, for people; empty for an answer that is good."""
    if status < 300:
        return ""
    try:
        said = msgspec.json.decode(body, type=_Refusal).error.message
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"status {status}"
    return " ".join(said.split())[:_TOLD_MOST]


def _body(body: bytes) -> Any:
    """As it came, if it is JSON in one line; else what it says."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body.decode(errors="replace")
    return value if b"\n" in body else msgspec.Raw(body)
