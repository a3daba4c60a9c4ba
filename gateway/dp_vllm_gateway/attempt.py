"""One request at one endpoint: holds an answer back until it is known to be one, then passes it on.

Called from within the connection's read, so an event that came from an engine is on its way to the client before the
event loop turns. Once a body byte has been passed on the attempt can only be finished or visibly broken, never made
again.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from dp_vllm.engine import answers
from dp_vllm.engine.routes import Dialect
from dp_vllm_gateway import judge, sse
from dp_vllm_gateway.call import Call
from dp_vllm_gateway.config import Limits
from dp_vllm_gateway.headers import returning
from dp_vllm_gateway.heads import Returning
from dp_vllm_gateway.lease import Lease
from dp_vllm_gateway.outcome import Failed, Outcome, Passed, Whole
from dp_vllm_gateway.relay import Relay
from dp_vllm_gateway.retry import Failure
from dp_vllm_gateway.upstream import Connection, Garbage, Headers, UpstreamError

HOLD_BYTES: Final = 1 << 20
"""Answers are held whole up to this size; a single event is too."""


class Attempt:
    """Listens to one exchange (see `upstream.Exchange`) and writes to one client."""

    _take: Callable[["Attempt", bytes, bool], None]
    """The present way of looking at a body: a plain function, as a bound method would be a reference cycle."""
    _head: Returning
    _outcome: Outcome | None = None
    _committed = False
    """A byte of the answer has been passed on."""
    _until_eof = False
    """Only the connection's end told where the body ends."""
    _paused_at = 0.0
    _seen_chunks = 0
    """How many there were at the last check; a clock at each chunk would cost more."""
    _flows = False
    """Events are being passed on, and the last piece ended with one."""
    _tail = b""
    """The beginning of an event that is still to come."""
    status = 0
    """The answer's status; 0 before its head."""
    first = b""
    """The first event that was passed on."""
    last = b""
    """The end of what was passed on, as far as usage is told there."""

    def __init__(
        self,
        connection: Connection,
        relay: Relay,
        lease: Lease,
        call: Call,
        dialect: Dialect,
        answer_lines: bytes,
        limits: Limits,
    ) -> None:
        self._connection = connection
        self._relay = relay
        self._lease = lease
        self._call = call
        self._dialect = dialect
        self._answer_lines = answer_lines
        self._limits = limits
        self._suspect = sse.SUSPECT[dialect]
        self._loop = loop = asyncio.get_running_loop()
        self._wake: asyncio.Future[None] = loop.create_future()
        self._since = loop.time()
        self._held: list[bytes] = []

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

    # what the connection says

    def on_head(self, status: int, headers: Headers) -> None:
        """Decide how the body will be looked at."""
        self.status = status
        self._head = head = returning(headers)
        if head.encoded or self._relay.bodiless or status in (204, 304):
            self._take = Attempt._plain
        elif head.content_type.startswith(b"text/event-stream"):
            self._take = Attempt._before_first_event
        elif head.content_type.startswith(b"application/json") or (
            head.length is not None and head.length < HOLD_BYTES
        ):
            self._take = Attempt._hold
        else:
            self._take = Attempt._plain

    def on_body(self, data: bytes, complete: bool) -> None:
        """Pass a piece through the present way of looking at it."""
        if self._flows and not complete and data.endswith(b"\n\n"):
            for token in self._suspect:
                if data.find(token) >= 0:
                    break
            else:  # whole events, none of which is more than content
                self._call.chunks += 1
                self.last = data
                self._relay.body(data)
                if self._relay.paused:
                    self._wait_for_the_client()
                return
        self._take(self, data, complete)

    def on_chunk(self, data: bytes) -> bool:
        """Pass a chunk on as it is framed, if it is whole events, none of which is more than content."""
        if not self._flows or not data.endswith(b"\n\n\r\n"):
            return False
        for token in self._suspect:
            if data.find(token) >= 0:  # `in` tries bytes for a number first, and takes twice as long
                return False
        if not self._relay.framed(data):
            return False
        self._call.chunks += 1
        self.last = data
        if self._relay.paused:
            self._wait_for_the_client()
        return True

    def on_eof(self) -> None:
        """Take the end of the connection for the end of the answer, if the answer says the same."""
        self._until_eof = True
        self._take(self, b"", True)

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
                self._end(Whole(self.status, self._head, body))
        elif sum(map(len, self._held)) > HOLD_BYTES:
            held = b"".join(self._held)
            self._take = Attempt._plain
            self._plain(held, False)

    def _plain(self, data: bytes, complete: bool) -> None:
        if not self._committed:
            if not data and not complete:
                return
            self._commit(self._head.length)
        self._call.chunks += 1
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
            self.first = event
            break
        else:
            if not complete:
                return
        self._commit(None)
        self._take = Attempt._events
        tail, self._tail = self._tail, b""
        self._events(whole[start:] + tail, complete)

    def _events(self, data: bytes, complete: bool) -> None:
        self._call.chunks += 1
        whole, self._tail = sse.split(self._tail + data)
        if complete or len(self._tail) > HOLD_BYTES:
            whole, self._tail = whole + self._tail, b""
        self._flows = not self._tail
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
        self.last = self.last[-4096:] + whole
        if not complete:
            self._relay.body(whole)
            self._mind_the_client()
        elif not sse.has_end(self.last, self._dialect):
            self._relay.body(whole)
            self._break("the replica's answer was cut")
        else:
            self._relay.end(whole)
            self._end(Passed.COMPLETE)

    # towards the client

    def _commit(self, length: int | None) -> None:
        self._committed = True
        self._lease.answering()
        self._call.answered_at = self._loop.time()
        if not self._relay.begun:
            lines = self._head.lines + self._answer_lines + self._lease.answer_lines()
            self._relay.head(self.status, lines, length)

    def _mind_the_client(self) -> None:
        if self._relay.paused:
            self._wait_for_the_client()

    def _wait_for_the_client(self) -> None:
        if not self._paused_at:
            self._paused_at = self._loop.time()
            self._connection.transport.pause_reading()
            if not self._wake.done():
                self._wake.set_result(None)

    def _break(self, message: str) -> None:
        """End a begun answer so that the client knows that it is not whole."""
        self._connection.close()
        events = self._take is Attempt._events and not self._relay.ended
        if events:
            self._relay.end(sse.error_event(self._dialect, message, self.first, self.last))
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
        elif self._call.chunks != self._seen_chunks:
            self._seen_chunks = self._call.chunks
            self._since = now
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
                self._fail(Failure.STOPPED, message)
