"""Which changes of the whole deployment are in force, in the order in which they were made.

An engine that starts anew has none of them, so they are repeated to it. Pure bookkeeping: `broadcast` makes the changes
and repeats them. It is kept in memory: a gateway that is restarted has forgotten it, and whoever restarts a replica
after that loads its adapters again. A restart is known by the endpoint's new incarnation, or by a look that found the
old engine gone; one between two looks at an endpoint that somebody else starts is not seen.

Changes of one thing are in the order in which this process made them or was sent them: of two that clients make through
two processes at the same moment, each process may keep another.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote

import msgspec

from dp_vllm.engine.routes import Route, parameter

MOST_CHANGES: Final = 1_000

MOST_CHANGE_BYTES: Final = 64 << 10
"""Of one change: target, header lines and body. An adapter's takes less than 1 kB."""

_FIELD: Final = re.compile(r"\{(\w+)\}")


class Change(NamedTuple):
    """A request as every replica was sent it."""

    method: str
    target: str
    lines: bytes
    """Header lines."""
    body: bytes

    @property
    def size(self) -> int:
        """In bytes, as it is kept."""
        return len(self.target) + len(self.lines) + len(self.body)


class Lasting:
    """The changes in force, each under the name of what it changed."""

    def __init__(self) -> None:
        self._changes: dict[tuple[str, str | None], Change] = {}

    def has_room(self, route: Route, change: Change) -> bool:
        """Whether a change can be kept besides those in force: one of the same thing takes no more room."""
        return len(self._changes) < MOST_CHANGES or _key(route.lasting, route, change) in self._changes

    def note(self, route: Route, change: Change) -> None:
        """A change was made: one that stays, or one that takes another back. Others are not noted.

        One that was made for all models stays for all until it is taken back for all. One that is too large or too
        many is not noted either: another process has let it pass.
        """
        if route.lasting and change.size <= MOST_CHANGE_BYTES and self.has_room(route, change):
            key = _key(route.lasting, route, change)
            self._changes.pop(key, None)  # what is made again is the latest
            self._changes[key] = change
        elif route.ends:
            name, model = _key(route.ends, route, change)
            for key in [key for key in self._changes if key[0] == name and model in (None, key[1])]:
                del self._changes[key]

    def changes(self) -> tuple[Change, ...]:
        """What a new engine lacks, the oldest first."""
        return tuple(self._changes.values())


def model_of(target: str) -> str | None:
    """The model that a change is for, as `?model=` says it; None if it is for all."""
    return parse_qs(target.partition("?")[2]).get("model", [None])[-1]


def _key(template: str, route: Route, change: Change) -> tuple[str, str | None]:
    return _name(template, route, change), model_of(change.target)


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
