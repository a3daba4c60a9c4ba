"""Answers browsers that ask whether a page of another origin may use the endpoint. Pure."""

from collections.abc import Mapping

from aiohttp import web

from dp_vllm_gateway import replies
from dp_vllm_gateway.config import Cors


def preflight(cors: Cors, read: Mapping[bytes, bytes]) -> web.Response:
    """The answer to OPTIONS. `read` is what the gateway reads of its headers, by lower-case name."""
    origin = _text(read.get(b"origin"))
    method = _text(read.get(b"access-control-request-method"))
    if not cors.origins or origin is None or method is None:
        return replies.error(405, "OPTIONS is answered only to browsers", headers={"Allow": "GET, POST, DELETE"})
    if not _allowed(cors, origin) or not ("*" in cors.methods or method in cors.methods):
        return replies.error(400, f"origin {origin} may not use {method} here")
    asked = _text(read.get(b"access-control-request-headers")) or ""
    answer = {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": method if "*" in cors.methods else ", ".join(cors.methods),
        "Access-Control-Allow-Headers": asked if "*" in cors.headers else ", ".join(cors.headers),
        "Access-Control-Max-Age": "600",
        "Vary": "Origin",
    }
    if cors.credentials:
        answer["Access-Control-Allow-Credentials"] = "true"
    return web.Response(status=200, headers=answer)


def headers(cors: Cors, origin: bytes | None) -> dict[str, str]:
    """What lets the page of an allowed origin read an answer; empty for others."""
    if origin is None or not cors.origins:
        return {}
    page = origin.decode("latin-1")
    if not _allowed(cors, page):
        return {}
    allowed = {"Access-Control-Allow-Origin": page, "Vary": "Origin"}
    return allowed | ({"Access-Control-Allow-Credentials": "true"} if cors.credentials else {})


def lines(cors: Cors, origin: bytes | None) -> bytes:
    """The same as header lines."""
    if origin is None:
        return b""
    return "".join(f"{name}: {value}\r\n" for name, value in headers(cors, origin).items()).encode("latin-1")


def _allowed(cors: Cors, origin: str) -> bool:
    return "*" in cors.origins or origin in cors.origins


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
