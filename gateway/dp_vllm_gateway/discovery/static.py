"""Endpoints that are named on the command line: engines that somebody else started."""

from collections.abc import AsyncIterator, Sequence

from dp_vllm.endpoints import Endpoint, EndpointSet, is_address
from dp_vllm.errors import BadSettings


def address_of(url: str) -> str:
    """`http://host:port`, `host:port` or `unix:/path` as an endpoint's address. Raises BadSettings for others."""
    if url.startswith("unix:"):
        path = url.removeprefix("unix:").replace("//", "/", 1)
        if path.startswith("/"):
            return f"unix:{path}"
    address = url.removeprefix("http://").rstrip("/")
    if not address.startswith("unix:") and is_address(address):
        return address
    raise BadSettings(f"--replica {url!r} is not allowed; write http://HOST:PORT or unix:/PATH")


async def once(addresses: Sequence[str]) -> AsyncIterator[EndpointSet]:
    """The one set that there is."""
    yield endpoints_of(addresses)


def endpoints_of(addresses: Sequence[str]) -> EndpointSet:
    """The set of these endpoints, which never changes."""
    endpoints = tuple(Endpoint(str(number), address) for number, address in enumerate(addresses))
    return EndpointSet(1, endpoints)
