"""What workers of one gateway tell each other, and gateways of one model, and how it is written. Pure.

A worker's standing is told as it is, never as a difference: what is lost is mended by what comes next. A gateway that
is told of by another, perhaps of another version, reads what it understands and no more than it can hold.
"""

import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

MOST_BYTES: Final = 60_000
"""Of facts in one datagram, unless a single one is longer; by default the system sends no more than 212,992."""

MOST_WHOLE_BYTES: Final = 16 << 20
"""Of a fact that comes in parts; a longer one is not put together."""

Name: TypeAlias = Annotated[str, Meta(max_length=4096)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 53)]


class Load(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one worker has in flight at a replica."""

    replica: Name
    incarnation: Name
    requests: Count
    sequences: Count
    waiting_tokens: Count


class Standing(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one worker has in flight in all."""

    generation: int = 0
    """Which set of endpoints it acts upon."""
    in_flight: Count = 0
    """Requests."""
    queued: Count = 0
    """Requests that wait because all replicas have as much as they may."""
    loads: tuple[Load, ...] = ()
    """Of the replicas where there is any."""


class Sent(msgspec.Struct, frozen=True, array_like=True, tag="sent", gc=False):
    """A replica was sent a prompt of these blocks."""

    replica: Name
    incarnation: Name
    blocks: list[int]


class Homes(msgspec.Struct, frozen=True, array_like=True, tag="homes", gc=False):
    """Responses that only one replica knows, and which (`homes`)."""

    homes: dict[Name, Name]


class Forgotten(msgspec.Struct, frozen=True, array_like=True, tag="forgotten", gc=False):
    """All replicas' prefix caches were emptied."""


class Changed(msgspec.Struct, frozen=True, array_like=True, tag="changed", gc=False):
    """All replicas were changed by this request (`lasting.Change`)."""

    method: str
    target: str
    lines: bytes
    body: bytes


class Joined(msgspec.Struct, frozen=True, array_like=True, tag="joined", gc=False):
    """The worker that tells this has not heard the one that is told: it is new, or that one is."""


class Died(msgspec.Struct, frozen=True, array_like=True, tag="died", gc=False):
    """A worker is no more; the parent says so."""

    worker: int


class Counted(msgspec.Struct, frozen=True, array_like=True, tag="counted", gc=False):
    """What the one who is told this had counted in a former life, as it was last shown to somebody."""

    text: bytes


class Asked(msgspec.Struct, frozen=True, array_like=True, tag="asked", gc=False):
    """Somebody wants to know a thing of all workers, and has been told this by the one that he asked."""

    number: int
    thing: str
    answer: bytes


class Answered(msgspec.Struct, frozen=True, array_like=True, tag="answered", gc=False):
    """What this worker has to say to that."""

    number: int
    answer: bytes


class Part(msgspec.Struct, frozen=True, array_like=True, tag="part", gc=False):
    """A piece of a fact that is too long for one datagram."""

    piece: bytes
    last: bool


Shared: TypeAlias = Sent | Homes | Forgotten | Changed | Joined
"""What other gateways are believed: the rest is between a gateway's own workers and their parent."""

_SHARED: Final = (Sent, Homes, Forgotten, Changed, Joined)

Fact: TypeAlias = Shared | Died | Counted | Asked | Answered | Part


class News(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One datagram."""

    worker: int
    standing: Standing | None
    """None if the parent tells it."""
    facts: list[Fact]


class _Written(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The same as it is written."""

    worker: int
    standing: Standing | None
    facts: Sequence[msgspec.Raw]


class _Foreign(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The same from another gateway, if all of it is understood."""

    worker: int
    standing: Standing | None
    facts: list[Shared | Part]


class _Unread(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The same if its facts may be of kinds that are not known here."""

    worker: int
    standing: Standing | None
    facts: list[msgspec.Raw]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(News)
_foreign_decoder: Final = msgspec.msgpack.Decoder(_Foreign)
_unread_decoder: Final = msgspec.msgpack.Decoder(_Unread)
_foreign_fact_decoder: Final[msgspec.msgpack.Decoder[Shared | Part]] = msgspec.msgpack.Decoder(Shared | Part)
_fact_decoder: Final = msgspec.msgpack.Decoder(Fact)


def written(fact: Fact) -> list[msgspec.Raw]:
    """A fact as it goes into datagrams: in parts, if it is long."""
    whole = _encoder.encode(fact)
    if len(whole) <= MOST_BYTES:
        return [msgspec.Raw(whole)]
    size = MOST_BYTES // 2
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    return [msgspec.Raw(_encoder.encode(Part(piece, piece is pieces[-1]))) for piece in pieces]


def datagram(worker: int, standing: Standing | None, facts: Sequence[msgspec.Raw]) -> bytes:
    """A worker's news."""
    return _encoder.encode(_Written(worker, standing, facts))


def read(data: bytes | memoryview) -> News:
    """The news of a datagram."""
    return _decoder.decode(data)


def read_foreign(data: bytes, number: int, parts: "Parts") -> News:
    """The news of another gateway, which has this number here, as far as they are understood.

    Raises ValueError if they are no news at all.
    """
    try:
        said = _foreign_decoder.decode(data)
    except msgspec.ValidationError:
        said = _what_is_understood(data)
    except RecursionError as error:
        raise ValueError(str(error)) from error
    return News(number, said.standing, [fact for fact in parts.whole(said.facts) if isinstance(fact, _SHARED)])


def _what_is_understood(data: bytes) -> _Foreign:
    try:
        unread = _unread_decoder.decode(data)
    except RecursionError as error:
        raise ValueError(str(error)) from error
    facts: list[Shared | Part] = []
    for raw in unread.facts:
        with contextlib.suppress(msgspec.DecodeError, RecursionError):
            facts.append(_foreign_fact_decoder.decode(raw))
    return _Foreign(unread.worker, unread.standing, facts)


class Parts:
    """Puts one worker's long facts together again."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._bytes = 0

    def whole(self, facts: Sequence[Fact]) -> list[Fact]:
        """These facts with whole ones for parts. A fact of which a part is missing is left out."""
        found: list[Fact] = []
        for fact in facts:
            if isinstance(fact, Joined):
                self._clear()  # another life: what was not finished never will be
            if not isinstance(fact, Part):
                found.append(fact)
                continue
            self._bytes += len(fact.piece)
            if self._bytes <= MOST_WHOLE_BYTES:
                self._pieces.append(fact.piece)
            if fact.last:
                with contextlib.suppress(msgspec.DecodeError, RecursionError):
                    found.append(_fact_decoder.decode(b"".join(self._pieces)))
                self._clear()
        return found

    def _clear(self) -> None:
        self._pieces.clear()
        self._bytes = 0


def take(waiting: deque[msgspec.Raw]) -> list[msgspec.Raw]:
    """Take as many facts as go into one datagram."""
    taken: list[msgspec.Raw] = []
    size = 0
    while waiting and (not taken or size + len(waiting[0]) <= MOST_BYTES):
        fact = waiting.popleft()
        taken.append(fact)
        size += len(fact)
    return taken
