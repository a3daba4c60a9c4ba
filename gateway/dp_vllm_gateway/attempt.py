"""One request at one endpoint: holds an answer back until it is known to be one, then passes it on.

Called from within the connection's read, so an event that came from an engine is on its way to the client before the
event loop turns. Once a body byte has been passed on the attempt can only be finished or visibly broken, never made
again.
"""

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dp_vllm.engine import answers
from dp_vllm.engine.routes import Dialect
from dp_vllm_gateway import judge, sse
from dp_vllm_gateway.config import Limits
from dp_vllm_gateway.headers import Returning, returning
from dp_vllm_gateway.relay import Relay
from dp_vllm_gateway.retry import Failure
from dp_vllm_gateway.upstream import Connection, Garbage, Headers, UpstreamError

HOLD_BYTES: Final = 1 << 20
"""Answers are held whole up to this size; a single event is too."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A complete answer, of which the client has nothing yet."""

    status: int
    headers: Returning
    body: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """No answer, and the client has nothing yet."""

    failure: Failure
    detail: str = ""


class Passed(enum.Enum):
    """The answer was passed on as it came."""

    COMPLETE = "to its end"
    BROKEN = "until the engine failed; the client was told"


Outcome = Whole | Failed | Passed


class Attempt:
    """Listens to one exchange (see `upstream.Exchange`) and writes to one client."""

    __slots__ = (
        "_committed",
        "_connection",
        "_dialect",
        "_extra",
        "_first",
        "_head",
        "_held",
        "_last",
        "_limits",
        "_loop",
        "_on_answer",
        "_outcome",
        "_paused_at",
        "_relay",
        "_seen_end",
        "_since",
        "_status",
        "_suspect",
        "_tail",
        "_take",
        "_until_eof",
        "_wake",
        "chunks",
    )

    _take: Callable[[bytes, bool], None]
    _head: Returning

    def __init__(
        self,
        connection: Connection,
        relay: Relay,
        dialect: Dialect,
        limits: Limits,
        *,
        extra_headers: bytes,
        on_answer: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._relay = relay
        self._dialect = dialect
        self._limits = limits
        self._extra = extra_headers
        self._on_answer = on_answer
        self._loop = asyncio.get_running_loop()
        self._wake: asyncio.Future[None] = self._loop.create_future()
        self._outcome: Outcome | None = None
        self._since = self._loop.time()
        self._paused_at = 0.0
        self._status = 0
        self._committed = False
        self._held: list[bytes] = []
        self._tail = b""
        self._first = self._last = b""
        self._seen_end = False
        self._until_eof = False
        self._suspect = sse.SUSPECT[dialect]
        self.chunks = 0
        """Pieces that were passed on."""

    async def finish(self) -> Outcome:
        """Wait for the end of the attempt, and for a client that reads slowly."""
        while True:
            await self._wake
            if self._outcome is not None:
                return self._outcome
            await self._relay.drained()
            self._paused_at = 0.0
            self._since = self._loop.time()
            self._wake = self._loop.create_future()
            self._connection.transport.resume_reading()

    @property
    def status(self) -> int:
        """The answer's status; 0 before its head."""
        return self._status

    @property
    def first(self) -> bytes:
        """The beginning of what was passed on."""
        return self._first

    @property
    def last(self) -> bytes:
        """The end of what was passed on, as far as usage is told there."""
        return self._last

    # what the connection says

    def on_head(self, status: int, headers: Headers, until_eof: bool) -> None:
        """Decide how the body will be looked at."""
        self._status = status
        self._until_eof = until_eof
        self._head = head = returning(headers)
        if head.encoded:
            self._take = self._plain
        elif head.content_type.startswith(b"text/event-stream"):
            self._take = self._before_first_event
        elif head.content_type.startswith(b"application/json") or (
            head.length is not None and head.length < HOLD_BYTES
        ):
            self._take = self._hold
        else:
            self._take = self._plain

    def on_body(self, data: bytes, complete: bool) -> None:
        """Pass a piece through the present way of looking at it."""
        self._take(data, complete)

    def on_lost(self, error: UpstreamError) -> None:
        """The connection ended before the answer did."""
        failure = Failure.GARBAGE if isinstance(error, Garbage) else Failure.DIED
        if self._committed:
            self._break("the replica failed while it answered")
        else:
            self._fail(failure, str(error))

    # ways of looking at a body

    def _hold(self, data: bytes, complete: bool) -> None:
        self._held.append(data)
        if complete:
            body = data if len(self._held) == 1 else b"".join(self._held)
            if self._until_eof and not judge.is_json(body):
                self._fail(Failure.DIED, "the answer was cut")
            else:
                self._end(Whole(self._status, self._head, body))
        elif sum(map(len, self._held)) > HOLD_BYTES:
            held = b"".join(self._held)
            self._take = self._plain
            self._plain(held, False)

    def _plain(self, data: bytes, complete: bool) -> None:
        if not self._committed:
            if not data and not complete:
                return
            self._commit(self._head.length)
        self._since = self._loop.time()
        self.chunks += 1
        if complete:
            self._relay.end(data)
            self._end(Passed.COMPLETE)
        else:
            self._relay.body(data)
            self._mind_the_client()

    def _before_first_event(self, data: bytes, complete: bool) -> None:
        whole, self._tail = sse.split(self._tail + data)
        start = 0
        for event in sse.events(whole):
            kind = sse.kind_of(event, self._dialect)
            if kind is sse.Kind.COMMENT:
                start += len(event)
                continue
            if kind is sse.Kind.ABORTED:
                self._fail(Failure.ABORTED)
                return
            if kind is sse.Kind.ERROR and answers.is_dead(event):
                self._fail(Failure.ENGINE_DEAD, "said so in its first event")
                return
            self._first = event
            break
        else:
            if not complete:
                return
        self._commit(None)
        self._take = self._events
        tail, self._tail = self._tail, b""
        self._events(whole[start:] + tail, complete)

    def _events(self, data: bytes, complete: bool) -> None:
        self._since = self._loop.time()
        self.chunks += 1
        if complete or self._tail or not data.endswith(b"\n\n") or self._suspicious(data):
            self._events_one_by_one(data, complete)
            return
        self._relay.body(data)
        self._last = data
        self._mind_the_client()

    def _suspicious(self, data: bytes) -> bool:
        return any(token in data for token in self._suspect)

    def _events_one_by_one(self, data: bytes, complete: bool) -> None:
        whole, self._tail = sse.split(self._tail + data)
        if complete or len(self._tail) > HOLD_BYTES:
            whole, self._tail = whole + self._tail, b""
        passed = 0
        for event in sse.events(whole):
            kind = sse.kind_of(event, self._dialect)
            if kind is sse.Kind.ABORTED:
                self._relay.body(whole[:passed])
                self._break("the replica stopped while it answered")
                return
            passed += len(event)
            if kind is sse.Kind.ERROR:  # the engine's own words; its [DONE] does not follow
                self._relay.end(whole[:passed])
                self._connection.close()
                self._end(Passed.BROKEN)
                return
            self._seen_end = self._seen_end or kind is sse.Kind.END
        self._last = self._last[-4096:] + whole
        if not complete:
            self._relay.body(whole)
            self._mind_the_client()
        elif self._until_eof and not self._seen_end:
            self._relay.body(whole)
            self._break("the replica's answer was cut")
        else:
            self._relay.end(whole)
            self._end(Passed.COMPLETE)

    # towards the client

    def _commit(self, length: int | None) -> None:
        self._committed = True
        self._on_answer()
        if not self._relay.begun:
            self._relay.head(self._status, (*self._head.lines, self._extra), length)

    def _mind_the_client(self) -> None:
        if self._relay.paused and not self._paused_at:
            self._paused_at = self._loop.time()
            self._connection.transport.pause_reading()
            if not self._wake.done():
                self._wake.set_result(None)

    def _break(self, message: str) -> None:
        """End a begun answer so that the client knows that it is not whole."""
        self._connection.close()
        events = self._take == self._events and not self._relay.ended
        if events:
            self._relay.end(sse.error_event(self._dialect, message, self._first, self._last))
        else:
            self._relay.cut()
        self._end(Passed.BROKEN)

    def _fail(self, failure: Failure, detail: str = "") -> None:
        self._connection.close()
        self._end(Failed(failure, detail))

    def _end(self, outcome: Outcome) -> None:
        if self._outcome is None:
            self._outcome = outcome
            if not self._wake.done():
                self._wake.set_result(None)

    # from outside

    def check(self, now: float) -> None:
        """End the attempt if something takes too long. `now` is the event loop's time."""
        if self._outcome is not None:
            return
        limits = self._limits
        if self._paused_at:
            if now - self._paused_at > limits.write_seconds:
                self._connection.close()
                self._relay.cut()
                self._end(Passed.BROKEN)
        elif self._committed:
            if now - self._since > limits.chunk_seconds:
                self._break(f"the replica sent nothing for {limits.chunk_seconds:g} s")
        elif now - self._since > limits.first_byte_seconds:
            self._fail(Failure.TIMEOUT, f"no answer within {limits.first_byte_seconds:g} s")

    def stop(self, message: str) -> None:
        """End the attempt because the gateway ends."""
        if self._outcome is None:
            if self._committed:
                self._break(message)
            else:
                self._fail(Failure.TIMEOUT, message)
