"""Who asked the API server for what: its audit log, read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

WRITES: Final = frozenset({"create", "update", "patch", "delete", "deletecollection"})


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was answered; for a watch, one whose answer has begun."""

    user: str
    agent: str
    """The User-Agent header: tells clients apart that log in as the same user."""
    verb: str
    resource: str
    """In plural, as `pods`; empty for what is no resource, as /readyz."""
    subresource: str
    namespace: str
    name: str
    code: int
    """The HTTP status of the answer."""
    at: str
    """When it was received, in RFC 3339 with microseconds."""

    @property
    def writes(self) -> bool:
        return self.verb in WRITES


class _User(msgspec.Struct):
    username: str = ""


class _Object(msgspec.Struct):
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""


class _Status(msgspec.Struct):
    code: int = 0


class _Event(msgspec.Struct, rename="camel"):
    stage: str
    verb: str
    user: _User
    request_received_timestamp: str
    user_agent: str = ""
    object_ref: _Object = msgspec.field(default_factory=_Object)
    response_status: _Status = msgspec.field(default_factory=_Status)


@dataclass(frozen=True, slots=True)
class Audit:
    """What the API server was asked for after a moment."""

    log: Path
    start: int = 0

    @classmethod
    def from_now(cls, log: Path) -> Self:
        return cls(log, log.stat().st_size)

    def calls(self) -> Iterator[Call]:
        """In the order of their answers. An answer may reach its client a moment before it is here."""
        decode = msgspec.json.Decoder(_Event).decode
        with self.log.open("rb") as file:
            file.seek(self.start)
            for line in file:
                if not line.endswith(b"\n"):  # being written
                    return
                event = decode(line)
                last_stage = "ResponseStarted" if event.verb == "watch" else "ResponseComplete"
                if event.stage in (last_stage, "Panic"):
                    yield _call(event)


def _call(event: _Event) -> Call:
    return Call(
        user=event.user.username,
        agent=event.user_agent,
        verb=event.verb,
        resource=event.object_ref.resource,
        subresource=event.object_ref.subresource,
        namespace=event.object_ref.namespace,
        name=event.object_ref.name,
        code=event.response_status.code,
        at=event.request_received_timestamp,
    )
