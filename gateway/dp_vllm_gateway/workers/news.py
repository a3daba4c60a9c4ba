"""What workers of one gateway tell each other, and gateways of one model, and how it is written. Pure.

A worker's standing is told as it is, never as a difference: what is lost is mended by what comes next. A gateway that
is told of by another, perhaps of another version, reads what it understands and no more than it can hold.

Every part of a message has a bound, which both sides keep: the writer writes no more, and the reader reads no more.
"""

import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from dp_vllm_gateway.lasting import MOST_CHANGE_BYTES
from dp_vllm_gateway.routing.blocks import MOST_BLOCKS

MOST_BYTES: Final = 60_000
"""Of facts in one datagram, unless a single one is longer; by default the system sends no more than 212,992."""

MOST_WHOLE_BYTES: Final = 16 << 20
"""Of a fact that comes in parts; a longer one is not put together."""

MOST_FACTS: Final = 8_192
"""In one message."""

MOST_LOADS: Final = 10_000
"""Replicas in one standing."""

MOST_HOMES: Final = 1_000
"""Responses in one fact."""

PARENT: Final = -1
"""As a worker's number: a message of the parent."""

Name: TypeAlias = Annotated[str, Meta(max_length=253)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 53)]
Blocks: TypeAlias = Annotated[list[int], Meta(max_length=MOST_BLOCKS)]
HomesByResponse: TypeAlias = Annotated[dict[Name, Name], Meta(max_length=MOST_HOMES)]
Method: TypeAlias = Annotated[str, Meta(max_length=16)]
Target: TypeAlias = Annotated[str, Meta(max_length=MOST_CHANGE_BYTES)]
Lines: TypeAlias = Annotated[bytes, Meta(max_length=MOST_CHANGE_BYTES)]
Body: TypeAlias = Annotated[bytes, Meta(max_length=MOST_CHANGE_BYTES)]


class Load(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one worker has in flight at a replica."""

    replica: Name
    incarnation: Name
    requests: Count
    sequences: Count
    waiting_tokens: Count


class Standing(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one worker has in flight in all."""

    generation: Count = 0
    """Which set of endpoints it acts upon."""
    in_flight: Count = 0
    """Requests."""
    queued: Count = 0
    """Requests that wait because all replicas have as much as they may."""
    loads: Annotated[tuple[Load, ...], Meta(max_length=MOST_LOADS)] = ()
    """Of the replicas where there is any."""


class Sent(msgspec.Struct, frozen=True, array_like=True, tag="sent", gc=False):
    """A replica was sent a prompt of these blocks."""

    replica: Name
    incarnation: Name
    blocks: Blocks


class Homes(msgspec.Struct, frozen=True, array_like=True, tag="homes", gc=False):
    """Responses that only one replica knows, and which (`homes`)."""

    homes: HomesByResponse


class Forgotten(msgspec.Struct, frozen=True, array_like=True, tag="forgotten", gc=False):
    """All replicas' prefix caches were emptied."""


class Changed(msgspec.Struct, frozen=True, array_like=True, tag="changed", gc=False):
    """All replicas were changed by this request (`lasting.Change`)."""

    method: Method
    target: Target
    lines: Lines
    body: Body


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
    thing: Name
    answer: bytes


class Answered(msgspec.Struct, frozen=True, array_like=True, tag="answered", gc=False):
    """What this worker has to say to that."""

    number: int
    answer: bytes


class Part(msgspec.Struct, frozen=True, array_like=True, tag="part", gc=False):
    """A piece of a fact that is too long for one datagram."""

    piece: Annotated[bytes, Meta(max_length=MOST_BYTES)]
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
    facts: Annotated[list[Fact], Meta(max_length=MOST_FACTS)]


class _Written(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The same as it is written."""

    worker: int
    standing: Standing | msgspec.Raw | None
    facts: Sequence[msgspec.Raw]


class _Foreign(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The same from another gateway, if all of it is understood."""

    worker: int
    standing: Standing | None
    facts: Annotated[list[Shared | Part], Meta(max_length=MOST_FACTS)]


class _Unread(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The same if its facts may be of kinds that are not known here."""

    worker: int
    standing: Standing | None
    facts: Annotated[list[msgspec.Raw], Meta(max_length=MOST_FACTS)]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(News)
_foreign_decoder: Final = msgspec.msgpack.Decoder(_Foreign)
_unread_decoder: Final = msgspec.msgpack.Decoder(_Unread)
_foreign_fact_decoder: Final[msgspec.msgpack.Decoder[Shared | Part]] = msgspec.msgpack.Decoder(Shared | Part)
_fact_decoder: Final = msgspec.msgpack.Decoder(Fact)


def written(fact: Fact) -> list[msgspec.Raw]:
    """A fact as it goes into datagrams: in parts, if it is long.

    Raises ValueError or OverflowError if the others could not read it.
    """
    whole = _encoder.encode(fact)
    if len(whole) > MOST_WHOLE_BYTES:
        raise ValueError(f"it has {len(whole)} bytes; at most {MOST_WHOLE_BYTES} are read")
    if not isinstance(fact, Sent):  # one for nearly every request, of parts that are bounded where they are made
        _fact_decoder.decode(whole)
    if len(whole) <= MOST_BYTES:
        return [msgspec.Raw(whole)]
    size = MOST_BYTES // 2
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    return [msgspec.Raw(_encoder.encode(Part(piece, piece is pieces[-1]))) for piece in pieces]


def standing_written(standing: Standing, most_bytes: int) -> msgspec.Raw:
    """How a worker stands, as it goes into datagrams: if not all loads fit, those with the most sequences.

    Raises OverflowError if a number in it cannot be written.
    """
    whole = _encoder.encode(standing)
    if len(whole) <= most_bytes and len(standing.loads) <= MOST_LOADS:
        return msgspec.Raw(whole)
    room, kept = most_bytes - len(_encoder.encode(msgspec.structs.replace(standing, loads=()))) - 4, list[Load]()
    for load in sorted(standing.loads, key=lambda load: load.sequences, reverse=True)[:MOST_LOADS]:
        room -= len(_encoder.encode(load))
        if room < 0:
            break
        kept.append(load)
    return msgspec.Raw(_encoder.encode(msgspec.structs.replace(standing, loads=tuple(kept))))


def datagram(worker: int, standing: Standing | msgspec.Raw | None, facts: Sequence[msgspec.Raw]) -> bytes:
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
        with contextlib.suppress(ValueError, RecursionError):
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
                with contextlib.suppress(ValueError, RecursionError):
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
    while waiting and len(taken) < MOST_FACTS and (not taken or size + len(waiting[0]) <= MOST_BYTES):
        fact = waiting.popleft()
        taken.append(fact)
        size += len(fact)
    return taken
