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
        return json.dumps(self.error, ensure_ascii=False).encode("utf-8", "replace")


class Plain(Refusal):
    """A refusal by the web framework or the key check, which have shapes of their own."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(status, str(body))
        self._plain = body

    @property
    def error(self) -> dict[str, Any]:
        return self._plain


def bad_request(message: str, param: str | None = None) -> Refusal:
    return Refusal(400, message, "BadRequestError", param)


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


def not_allowed() -> Plain:
    return Plain(405, {"detail": "Method Not Allowed"})
