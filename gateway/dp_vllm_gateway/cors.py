"""Which web pages of other origins may use the endpoint, as Starlette's middleware says it for vLLM. Pure.

The endpoint decides this, and never an engine: what engines say of it is dropped (`headers`).
"""

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from dp_vllm_gateway import replies
from dp_vllm_gateway.config import Cors

_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY")

_SAFE_HEADERS: Final = ("Accept", "Accept-Language", "Content-Language", "Content-Type")
"""A page may always send these."""

_ORIGIN_VARIES: Final = {"Vary": "Origin"}

_PREFLIGHT_VARIES: Final = (
    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network"
)


def preflight(cors: Cors, read: Mapping[bytes, bytes]) -> web.Response:
    """The answer to OPTIONS. `read` is what the gateway reads of its headers, by lower-case name."""
    origin = _text(read.get(b"origin"))
    method = _text(read.get(b"access-control-request-method"))
    if origin is None or method is None:
        return replies.error(405, "OPTIONS is answered only to browsers", headers={"Allow": "GET, POST, DELETE"})
    wanted = _text(read.get(b"access-control-request-headers"))
    methods = _METHODS if "*" in cors.methods else cors.methods
    answer = _of_origin(cors, origin) | {
        "Access-Control-Allow-Methods": ", ".join(methods),
        "Access-Control-Max-Age": "600",
        "Vary": _PREFLIGHT_VARIES,
    }
    if "*" not in cors.headers:
        answer["Access-Control-Allow-Headers"] = ", ".join(sorted({*_SAFE_HEADERS, *cors.headers}))
    elif wanted is not None:
        answer["Access-Control-Allow-Headers"] = wanted
    refused = []
    if not _allowed(cors, origin):
        refused.append("origin")
    if method not in methods:
        refused.append("method")
    if wanted is not None and not _headers_allowed(cors, wanted):
        refused.append("headers")
    status, said = (400, f"Disallowed CORS {', '.join(refused)}") if refused else (200, "OK")
    return web.Response(status=status, text=said, headers=answer)


def headers(cors: Cors, origin: bytes | None) -> dict[str, str]:
    """What an answer says of it. `Vary` is for caches: another origin may get another answer."""
    return _ORIGIN_VARIES if origin is None else _of_origin(cors, origin.decode("latin-1")) | _ORIGIN_VARIES


def lines(cors: Cors, origin: bytes | None) -> bytes:
    """The same as header lines."""
    if origin is None:
        return b"vary: Origin\r\n"
    return "".join(f"{name}: {value}\r\n" for name, value in headers(cors, origin).items()).encode("latin-1")


def _of_origin(cors: Cors, origin: str) -> dict[str, str]:
    if not _allowed(cors, origin):
        return {}
    if not cors.credentials:
        return {"Access-Control-Allow-Origin": "*" if "*" in cors.origins else origin}
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true"}


def _allowed(cors: Cors, origin: str) -> bool:
    return "*" in cors.origins or origin in cors.origins


def _headers_allowed(cors: Cors, wanted: str) -> bool:
    if "*" in cors.headers:
        return True
    allowed = {name.lower() for name in (*_SAFE_HEADERS, *cors.headers)}
    return all(name.strip().lower() in allowed for name in wanted.split(","))


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
