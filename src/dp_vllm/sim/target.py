"""What a request's target names, and where a path with a superfluous slash is sent: as uvicorn and Starlette see it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

_AUTHORITY: Final = re.compile(r"[\w.\-]+(?::\d+)?|\[[0-9A-Fa-f:.]+\](?::\d+)?")
_REMAINING: Final = ":/%#?=@[]!$&'()*+,;"
"""Characters that a `Location` keeps as they are, besides letters, digits and `_.-~`."""


@dataclass(frozen=True, slots=True)
class Target:
    """A decoded path and the query as it came."""

    path: str
    query: str


def read(target: str) -> Target:
    """Of a request line: an authority and a fragment are dropped, and every percent-encoding of the path counts."""
    if not target.startswith("/") and "://" in target:
        target = "/" + target.partition("://")[2].partition("/")[2]
    before, _, query = target.partition("#")[0].partition("?")
    return Target(unquote(before), query)


def location(target: Target, scheme: str, host: str | None, server: str | None) -> str:
    """The address of the same target without slashes at its end; of the server itself if `host` is none."""
    path = target.path.rstrip("/").replace("?", "%3F").replace("#", "%23").replace("\\", "%5C")
    authority = host if host and _AUTHORITY.fullmatch(host) else server
    url = f"{scheme}://{authority}{path}" if authority else path
    return quote(f"{url}?{target.query}" if target.query else url, safe=_REMAINING)
