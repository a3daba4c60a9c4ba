"""Which changes of the whole deployment are in force, in the order in which they were made.

An engine that starts anew has none of them, so they are repeated to it. Pure bookkeeping: `broadcast` makes the changes
and repeats them. It is kept in memory: a gateway that is restarted has forgotten it, and whoever restarts a replica
after that loads its adapters again. A restart is known by the endpoint's new incarnation, or by a look that found the
old engine gone; one between two looks at an endpoint that somebody else starts is not seen.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import msgspec

from dp_vllm.engine.routes import Route, parameter

_FIELD: Final = re.compile(r"\{(\w+)\}")


class Change(NamedTuple):
    """A request as every replica was sent it."""

    method: str
    target: str
    lines: bytes
    """Header lines."""
    body: bytes


class Lasting:
    """The changes in force, each under the name of what it changed."""

    def __init__(self) -> None:
        self._changes: dict[str, Change] = {}

    def note(self, route: Route, change: Change) -> None:
        """A change was made: one that stays, or one that takes another back. Others are not noted."""
        if route.lasting:
            name = _name(route.lasting, route, change)
            self._changes.pop(name, None)  # what is made again is the latest
            self._changes[name] = change
        elif route.ends:
            self._changes.pop(_name(route.ends, route, change), None)

    def changes(self) -> tuple[Change, ...]:
        """What a new engine lacks, the oldest first."""
        return tuple(self._changes.values())


def _name(template: str, route: Route, change: Change) -> str:
    """`lora:{lora_name}` with the field's value: from the path if the route has a parameter there, else the body."""
    in_path = parameter(route, change.target.partition("?")[0])
    fields = {} if in_path else _fields(change.body)
    return _FIELD.sub(lambda field: unquote(in_path) or str(fields.get(field.group(1), "")), template)


def _fields(body: bytes) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (ValueError, RecursionError):
        return {}
