"""Which path a request asks for: decoded once, judged once, and sent in one spelling. Pure.

An engine (uvicorn, Starlette) splits off the query and a fragment, decodes the path once, and compares it with its
routes. A path that another reader could decode to something else is refused here.
"""

import functools
import re
from typing import Final
from urllib.parse import parse_qs, quote, unquote_to_bytes

from dp_vllm.engine.routes import is_named
from dp_vllm_gateway.replies import Refusal

OWN_PATHS: Final = frozenset({"/ready"})
"""Answered by the gateway alone: the engine's table does not name them."""

MODEL: Final = "/v1/models/"
"""A model's name follows. It may hold slashes, also encoded ones, and begin with one: no engine has such a route."""

LONGEST: Final = 4096
"""Characters of a path as it is written; no route comes near it, and judging takes time."""

LONGEST_KEPT: Final = 1024
"""A longer target is not remembered."""

_ENCODED_SLASH: Final = re.compile("%2f", re.IGNORECASE)
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9a-f]{2})|%2e|%5c|%[01][0-9a-f]|%7f", re.IGNORECASE)
_AMBIGUOUS: Final = re.compile(r"//|/\.{1,2}(?:/|$)|[?#\\\x01-\x1f\x7f]|%[0-9a-f]{2}", re.IGNORECASE)
_SAFE: Final = "/!$&'()*+,-.:;=@_~"
"""Written without escapes in a path (RFC 3986, 3.3)."""


def target_of(raw: str, root_path: str) -> tuple[str, str]:
    """The decoded path without the root path, and what an engine is sent: that path encoded, with the query.

    A slash at the end is left out if the route has none: an engine would redirect to its own address. Raises Refusal
    400 for a path with `..`, `//`, a fragment, an escape within an escape, or bytes that are not UTF-8, for one with an
    encoded slash, backslash, dot, `?`, `#` or control character, and for one that is a URL; 414 for a long one.
    """
    return _kept(raw, root_path) if len(raw) <= LONGEST_KEPT else _target_of(raw, root_path)


def _target_of(raw: str, root_path: str) -> tuple[str, str]:
    written, mark, query = raw.partition("?")
    if len(written) > LONGEST:
        raise Refusal(414, f"the path has {len(written)} characters; at most {LONGEST} are read", code="bad_path")
    path = None if "#" in raw else _decoded(written)
    if path is not None and root_path and (path == root_path or path.startswith(root_path + "/")):
        path = path[len(root_path) :] or "/"
    if path is not None and "\0" in path:  # an encoded slash
        path = path.replace("\0", "/") if path.startswith(MODEL) else None
    if path is None or not path.startswith("/") or _AMBIGUOUS.search(_judged(path)):
        raise Refusal(400, f"the path {written[:LONGEST_KEPT]!r} is not one that is passed on", code="bad_path")
    if path.endswith("/") and (is_named(path[:-1]) or path[:-1] in OWN_PATHS):
        path = path[:-1]
    return path, quote(path, safe=_SAFE) + mark + query


_kept = functools.lru_cache(maxsize=1024)(_target_of)


def _judged(path: str) -> str:
    """The path without the slash with which a model's name begins: a model is called after its directory."""
    begin = len(MODEL)
    return MODEL + path[begin + 1 :] if path.startswith(MODEL + "/") and path[begin + 1 :] else path


def _decoded(written: str) -> str | None:
    """The path with its escapes read once, an encoded slash as a zero byte; None if they can be read in two ways."""
    if "%" not in written and written.isascii():
        return written
    if _BAD_ESCAPE.search(written):
        return None
    encoded = _ENCODED_SLASH.sub("\0", written).encode("utf-8", "surrogateescape")
    try:
        return unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError:
        return None


def query_value(target: str, name: str) -> str | None:
    """The first value that a target's query gives to a name; None if it does not."""
    values = parse_qs(target.partition("?")[2], keep_blank_values=True).get(name)
    return values[0] if values else None
