"""Refusals, in the words and shapes of vLLM's server."""

import json
from http import HTTPStatus
from typing import Any

DRAINING = "cannot schedule new futures after shutdown"
DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, kind: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind or HTTPStatus(status).phrase
        self.message = message
        self.param = param

    @property
    def error(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}}

    @property
    def body(self) -> bytes:
        return json.dumps(self.error, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


class Invalid(Refusal):
    """A body that the framework's validation refuses, in its own words."""


class ForMessages(Refusal):
    """A refusal in Anthropic's shape."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.status, refusal.message, refusal.kind)

    @property
    def error(self) -> dict[str, Any]:
        return {"type": "error", "error": {"type": self.kind, "message": self.message}}


class Plain(Refusal):
    """A refusal by the web framework or the key check, which have shapes of their own."""

    def __init__(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        super().__init__(status, str(body))
        self.headers = headers or {}
        self._plain = body

    @property
    def error(self) -> dict[str, Any]:
        return self._plain


def bad_request(message: str, param: str | None = None) -> Refusal:
    return Refusal(400, message, "BadRequestError", param)


def bad_value(message: str, parameter: str, value: object = ...) -> Refusal:
    """What vLLM says of a parameter, with the value if it is given."""
    shown = "" if value is ... else f", value={value}"
    return bad_request(f"{message} (parameter={parameter}{shown})", parameter)


def no_such_model(name: object, known: list[str]) -> Refusal:
    aliases = ", ".join(known)
    message = f"The model `{name}` does not exist. Valid aliases: {aliases}."
    return Refusal(404, message, "NotFoundError", "model")


def busy() -> Refusal:
    return Refusal(503, BUSY, "Service Unavailable")


def draining() -> Refusal:
    return Refusal(500, DRAINING, "InternalServerError")


def dead() -> Refusal:
    return Refusal(500, DEAD, "InternalServerError")


def not_found() -> Plain:
    return Plain(404, {"detail": "Not Found"})


def not_allowed(allowed: str) -> Plain:
    return Plain(405, {"detail": "Method Not Allowed"}, {"allow": allowed})


def unreadable() -> Plain:
    """A body that no JSON reader takes: not UTF-8, too deep, or with too long a number."""
    return Plain(400, {"detail": "There was an error parsing the body"})
