"""What may serve requests, and the file in which the supervisor tells the gateway.

The supervisor is the file's one writer. It replaces the file as a whole, so that a reader sees either the old set or
the new one, and counts up its generation, so that the gateway can say which set it acts upon.
"""

import enum
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from dp_vllm import own_files
from dp_vllm.errors import UserError

Name: TypeAlias = Annotated[str, Meta(pattern=r"^[!-~]{1,253}\Z")]
"""What stands in a header, in the label of a metric and in messages between gateways."""

Incarnation: TypeAlias = Annotated[str, Meta(max_length=253)]

Generation: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 53)]

_ADDRESS: Final = re.compile(r"unix:/[^\0]+|[^\s/\0-\x1f\x7f]+:([0-9]{1,5})")


class State(enum.Enum):
    """What the one who started an engine knows of it. The gateway adds its own probes."""

    STARTING = "starting"
    READY = "ready"
    UNREADY = "not ready"
    """It runs, but whoever looks after it does not call it ready: it is used if there is nothing better."""
    DRAINING = "draining"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One engine that requests can be sent to."""

    name: Name
    """The replica's name, unique in the set: "0"."""
    address: str
    """`host:port` or `unix:/path`; empty if it has none yet."""
    incarnation: Incarnation = ""
    """Another one after each start of the engine: its caches, adapters and connections are gone with the old one."""
    state: State = State.READY
    message: str = ""
    """How far the start is, or why the engine is down: a sentence that clients are shown in a 503."""
    models: tuple[str, ...] = ()
    """What clients call its model, where that is known beforehand; else the engine is asked."""


@dataclass(frozen=True, slots=True)
class EndpointSet:
    """All endpoints at one moment."""

    generation: Generation
    endpoints: tuple[Endpoint, ...]
    why_none: str = ""
    """Why there is no endpoint, if there is none: a sentence that clients are shown in a 503."""


def read(path: Path) -> EndpointSet:
    """Read the endpoints file.

    Raises FileNotFoundError before it was first written, and UserError if it holds something else.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=EndpointSet)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not an endpoints file: {error}") from error
    for endpoint in found.endpoints:
        if endpoint.address and not is_address(endpoint.address):
            message = f"the address {endpoint.address[:200]!r} is neither HOST:PORT nor unix:/PATH"
            raise UserError(f"{path} is not an endpoints file: endpoint {endpoint.name}: {message}")
    return found


def is_address(address: str) -> bool:
    """Whether that is `host:port` or `unix:/path`."""
    found = _ADDRESS.fullmatch(address)
    return found is not None and (found[1] is None or 0 < int(found[1]) < 65536)


def write(path: Path, endpoints: EndpointSet) -> None:
    """Replace the endpoints file at once; readers never see half of it."""
    own_files.replace(path, msgspec.json.format(msgspec.json.encode(endpoints)) + b"\n")
