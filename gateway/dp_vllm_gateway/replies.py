"""Answers that the gateway gives itself, in the words of the API that was called."""

from collections.abc import Mapping
from email.utils import formatdate
from typing import Final

import msgspec
from aiohttp import web

from dp_vllm_gateway.relay import Relay

TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
}
"""Names of OpenAI's error types; other 4xx are `invalid_request_error`, 5xx `server_error`."""

RETRY_AFTER_MOST: Final = 120
"""Seconds. OpenAI's client does not try again at all if it is asked to wait longer."""


class Refusal(Exception):
    """A request that the gateway answers itself, with an error."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        message = message.encode("utf-8", "replace").decode()  # it may quote what a client sent
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})


def unavailable(status: int, message: str, *, retry_after_seconds: int, code: str) -> Refusal:
    """A refusal that passes: the client is told when to come again."""
    seconds = str(max(1, min(retry_after_seconds, RETRY_AFTER_MOST)))
    return Refusal(status, message, code=code, headers={"Retry-After": seconds})


def error_body(status: int, message: str, *, code: str | None = None, anthropic: bool = False) -> bytes:
    """The error as OpenAI words it, or Anthropic."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    if anthropic:
        return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code or status}})


def error(
    status: int,
    message: str,
    *,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
    anthropic: bool = False,
) -> web.Response:
    """A response with an error body."""
    body = error_body(status, message, code=code, anthropic=anthropic)
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def json_reply(value: object, status: int = 200) -> web.Response:
    """A response with a JSON body."""
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")


def send(response: web.Response, relay: Relay) -> None:
    """Answer a client with it."""
    body = response.body
    assert body is None or isinstance(body, bytes)
    lines = [f"{name}: {value}\r\n" for name, value in response.headers.items()]
    lines.append(f"date: {formatdate(usegmt=True)}\r\n")
    relay.whole(response.status, "".join(lines).encode("latin-1"), body or b"")
