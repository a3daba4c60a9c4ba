"""A request's way through the engine: its prompts and choices become sequences, and the handler waits for their ends.

Whatever way the `with` block is left, by an answer, an error or the client's departure, nothing stays in the engine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from types import TracebackType

from dp_vllm.sim import errors
from dp_vllm.sim.sequence import Place, Sequence
from dp_vllm.sim.steps import Steps

_log = logging.getLogger("dp_vllm.sim")


class Work:
    """The sequences of one request, in the engine while the `with` block lasts."""

    def __init__(self, steps: Steps, sequences: list[Sequence]) -> None:
        self._steps = steps
        self._sequences = sequences

    def __enter__(self) -> Work:
        engine = self._steps.engine
        if engine.busy_for(len(self._sequences)):
            raise errors.busy()
        engine.add(self._sequences, time.monotonic())
        self._steps.wake()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if any(sequence.place is not Place.ENDED for sequence in self._sequences):
            _log.info("Request aborted: its client has left.")
            self._steps.engine.abort(self._sequences)


class Whole:
    """A sink for an answer that is given as a whole."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def token(self, sequence: Sequence) -> None:
        pass

    def end(self, sequence: Sequence) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def all_ended(sinks: list[Whole]) -> None:
    """Wait for every one of them."""
    for sink in sinks:
        await sink.ended
