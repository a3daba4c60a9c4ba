"""Tokens to events: the hot path. What an event looks like is the dialect's matter (`Frames`)."""

from __future__ import annotations

from typing import Protocol

from dp_vllm.sim.sequence import Sequence
from dp_vllm.sim.wire import Wire
from dp_vllm.sim.work import Whole


class Frames(Protocol):
    """How one sequence's tokens are said in a dialect. Every method returns whole events."""

    def opening(self, sequence: Sequence) -> bytes:
        """Before the first token."""

    def delta(self, sequence: Sequence, start: int, end: int) -> bytes:
        """The tokens from `start` to before `end`."""

    def ending(self, sequence: Sequence, start: int) -> bytes:
        """The tokens from `start` on, and why they end."""


class TokenStream(Whole):
    """A sink that writes each token to the wire as it comes, or several at once to a client that reads slowly."""

    def __init__(self, wire: Wire, frames: Frames) -> None:
        super().__init__()
        self._wire = wire
        self._frames = frames
        self._sent = 0
        self._opened = False
        self._closed = False

    def token(self, sequence: Sequence) -> None:
        if self._wire.blocked:
            return
        if not self._opened:
            self._open(sequence)
        start, self._sent = self._sent, sequence.generated
        self._wire.send(self._frames.delta(sequence, start, self._sent))

    def end(self, sequence: Sequence) -> None:
        if not self._wire.blocked:
            self.finish(sequence)
        super().end(sequence)

    def finish(self, sequence: Sequence) -> None:
        """Say what is left to say, once; nothing if the engine died."""
        if self._closed:
            return
        self._closed = True
        if sequence.finish == "error":
            return
        if not self._opened:
            self._open(sequence)
        self._wire.send(self._frames.ending(sequence, self._sent))

    def _open(self, sequence: Sequence) -> None:
        self._opened = True
        first = self._frames.opening(sequence)
        if first:
            self._wire.send(first)


async def stream_out(wire: Wire, pairs: list[tuple[Sequence, TokenStream]]) -> None:
    """Wait until every sequence has ended and all of it is written."""
    for sequence, sink in pairs:
        await sink.ended
        if wire.blocked:
            await wire.readable()
        sink.finish(sequence)
