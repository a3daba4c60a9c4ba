"""Which path a request asks for: refused if an engine could read it differently than the gateway. Pure."""

import functools
import re
from typing import Final
from urllib.parse import parse_qs

from dp_vllm_gateway.replies import Refusal

_AMBIGUOUS: Final = re.compile(r"//|/\.{1,2}(?:/|$)|%2e|%2f|%5c|\\|[\x00-\x20\x7f]", re.IGNORECASE)


@functools.lru_cache(maxsize=1024)
def target_of(raw: str, root_path: str) -> tuple[str, str]:
    """The path without the root path, and `?` with the query if there is one.

    Raises Refusal 400 for a path with `..`, `//` or an encoded slash or dot, and for one that is a URL.
    """
    path, mark, query = raw.partition("?")
    if not path.startswith("/") or _AMBIGUOUS.search(path):
        raise Refusal(400, f"the path {path!r} is not one that is passed on", code="bad_path")
    if root_path and (path == root_path or path.startswith(root_path + "/")):
        path = path[len(root_path) :] or "/"
    return path, mark + query


def query_value(target: str, name: str) -> str | None:
    """The first value that a target's query gives to a name; None if it does not."""
    values = parse_qs(target.partition("?")[2], keep_blank_values=True).get(name)
    return values[0] if values else None
