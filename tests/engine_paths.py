"""How an engine reads a request's target: uvicorn's rule for the path that Starlette compares with its routes."""

from urllib.parse import unquote

import httptools


def read_by_engine(target: str) -> str:
    """The path of a target, as uvicorn decodes it with httptools and with h11. Raises its errors."""
    parsed = httptools.parse_url(target.encode("utf-8", "surrogateescape"))
    path = unquote(parsed.path.decode("ascii"))
    assert unquote(target.partition("?")[0]) == path, "its two readers of HTTP read it alike"
    return path
