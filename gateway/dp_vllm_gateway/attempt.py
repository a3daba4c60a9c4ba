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
from dp_vllm_gateway.outcome import Aborted, Failed, Outcome, Passed, Whole
from dp_vllm_gateway.outgoing import Outgoing
from dp_vllm_gateway.relay import Relay
from dp_vllm_gateway.retry import Failure
from dp_vllm_gateway.upstream import Connection, Garbage, Headers, UpstreamError

HOLD_BYTES: Final = 1 << 20
"""Answers are held whole up to this size; a single event is too. It bounds the comments before the first event."""

USAGE_BYTES: Final = 1024
"""In the end of a large answer's part so much of its usage may have begun."""


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
    _pending: sse.Pending
    """Of a stream: the beginning of an event that is still to come."""
    _streams = False
    """Events are passed on, so the answer can be ended with one that says what went wrong."""
    _ended = False
    """The event that ends a stream as it should has come."""
    _aborted = False
    """The engine said that it aborted the request; what follows is held."""
    _held_bytes = 0
    _tail = b""
    """Of a large JSON answer: the end of what was passed on, in which its usage may have begun."""
    status = 0
    """The answer's status; 0 before its head."""
    first = b""
    """The first event that was passed on."""
    last = b""
    """The last events that were passed on."""

    def __init__(
        self,
        connection: Connection,
        relay: Relay,
        lease: Lease,
        call: Call,
        out: Outgoing,
        limits: Limits,
        root_path: bytes,
    ) -> None:
        self._connection = connection
        self._relay = relay
        self._lease = lease
        self._call = call
        self._dialect = out.route.dialect
        self._answer_lines = out.answer_lines
        self._stream = out.facts.stream
        self._limits = limits
        self._root_path = root_path
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
        self._head = head = returning(headers, self._lease.member.host, self._root_path)
        if head.encoded or self._relay.bodiless or status in (204, 304):
            self._take = Attempt._plain
        elif head.content_type.startswith(b"text/event-stream"):
            self._listen_to_events()
        elif head.content_type.startswith(b"application/json") or (
            head.length is not None and head.length < HOLD_BYTES
        ):
            self._take = Attempt._hold
        else:
            self._take = Attempt._plain

    def _listen_to_events(self) -> None:
        self._pending = sse.Pending()
        self._suspect = sse.SUSPECT[self._dialect]
        self._content_ends = sse.CONTENT_ENDS[self._dialect]
        self._framed_content_ends = sse.FRAMED_CONTENT_ENDS[self._dialect]
        self._take = Attempt._before_first_event

    def on_body(self, data: bytes, complete: bool) -> None:
        """Pass a piece through the present way of looking at it."""
        if self._flows and not complete and data.endswith(self._content_ends):
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
        if not self._flows or not data.endswith(self._framed_content_ends):
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
        if self._aborted:
            self.refuse_abort()
        elif self._committed:
            self._break("the replica failed while it answered")
        else:
            self._fail(failure, str(error))

    # ways of looking at a body

    def _hold(self, data: bytes, complete: bool) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        if complete:
            body = data if len(self._held) == 1 else b"".join(self._held)
            if self._until_eof and not judge.is_json(body):
                self._fail(Failure.DIED, "the answer was cut")
            else:
                self._end(Whole(self.status, self._head, body))
        elif self._held_bytes > HOLD_BYTES:
            held = b"".join(self._held)
            self._take = Attempt._large_json if self._is_json() else Attempt._plain
            self._take(self, held, False)

    def _is_json(self) -> bool:
        return self._head.content_type.startswith(b"application/json")

    def _large_json(self, data: bytes, complete: bool) -> None:
        """Pass it on as it comes, and look for its usage."""
        self._tail += data
        self._call.usage(self._tail)
        self._tail = self._tail[-USAGE_BYTES:]
        self._plain(data, complete)

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
        self._held_bytes += len(data)
        whole = sse.without_comments(self._pending.take(data))
        start = 0
        for event in sse.events(whole):
            kind = sse.kind_of(event, self._dialect)
            if kind is sse.Kind.COMMENT:
                start += len(event)
                continue
            if kind is sse.Kind.ERROR and answers.is_dead(event):
                self._fail(Failure.ENGINE_DEAD, "said so in its first event")
                return
            self.first = event
            if kind is sse.Kind.ABORTED:
                self._hold_abort(whole[start:], complete)
                return
            break
        else:
            if not complete and self._pending.size <= HOLD_BYTES:
                if self._held_bytes - self._pending.size > HOLD_BYTES:
                    self._fail(Failure.GARBAGE, f"sent {HOLD_BYTES} bytes of comments and no event")
                return
        self._commit(None)
        self._take = Attempt._events
        self._streams = True
        self._pass_events(whole[start:], complete)

    def _events(self, data: bytes, complete: bool) -> None:
        self._pass_events(self._pending.take(data), complete)

    def _pass_events(self, whole: bytes, complete: bool) -> None:
        self._call.chunks += 1
        if self._flows:
            self._call.usage(self.last)
        pending = self._pending
        if complete or pending.size > HOLD_BYTES:
            rest = pending.release()
            self._ended = self._ended or sse.names_end(rest, self._dialect)
            whole += rest
        self._flows = not pending.size
        passed = 0
        for event in sse.events(whole):
            kind = sse.kind_of(event, self._dialect)
            if kind is sse.Kind.ABORTED:
                self._relay.body(whole[:passed])
                self._hold_abort(whole[passed:], complete)
                return
            passed += len(event)
            self._note(event, kind)
            if kind is sse.Kind.ERROR:  # the engine's own words; its [DONE] does not follow
                self._relay.end(whole[:passed])
                self._connection.close()
                self._end(Passed.BROKEN)
                return
        self.last = self.last[-4096:] + whole
        if not complete:
            self._relay.body(whole)
            self._mind_the_client()
        elif self._ended or self._dialect is Dialect.OTHER:
            self._relay.end(whole)
            self._end(Passed.COMPLETE)
        else:
            self._relay.body(whole)
            self._break("the replica's answer was cut")

    def _note(self, event: bytes, kind: sse.Kind) -> None:
        """Take from an event what is recorded of it."""
        if kind is sse.Kind.END:
            self._ended = True
        if event.find(sse.USAGE) >= 0:
            self._call.usage(event)

    def _hold_abort(self, data: bytes, complete: bool) -> None:
        """Hold a stream from the event on that says that the engine aborted the request."""
        self._flows = False
        self._aborted = True
        self._held = []
        self._held_bytes = 0
        self._take = Attempt._after_abort
        self._after_abort(data + self._pending.release(), complete)

    def _after_abort(self, data: bytes, complete: bool) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        if complete:
            self._end(Aborted())
        elif self._held_bytes > HOLD_BYTES:
            self.refuse_abort()

    def pass_abort(self) -> Outcome:
        """The abort is the answer: pass on what was held."""
        held = b"".join(self._held)
        for event in sse.events(held):
            self._note(event, sse.kind_of(event, self._dialect))
        if not self._committed:
            self._commit(None)
        self._relay.end(held)
        return Passed.COMPLETE

    def refuse_abort(self) -> Outcome:
        """The engine aborted the request because it ends: it is as if it had died."""
        if self._committed:
            self._break("the replica stopped while it answered")
            return Passed.BROKEN
        self._fail(Failure.ABORTED)
        return Failed(Failure.ABORTED)

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
        if self._streams and not self._relay.ended:
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
        elif now - self._since > (seconds := limits.first_byte(stream=self._stream)):
            self._fail(Failure.TIMEOUT, f"no answer within {seconds:g} s")

    def stop(self, message: str) -> None:
        """End the attempt because the gateway ends."""
        if self._outcome is None:
            if self._committed:
                self._break(message)
            else:
                self._fail(Failure.STOPPED, message)
