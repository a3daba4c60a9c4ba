"""One prompt and the tokens generated after it: what the engine schedules. A request has one per prompt and choice."""

from __future__ import annotations

import enum
from array import array
from typing import Protocol

from dp_vllm.sim.reply import Reply


class Sink(Protocol):
    """Where a sequence's tokens go. It must not raise: it is called from within a step of everybody's."""

    def token(self, sequence: Sequence) -> None:
        """One more token was generated, and it is not the last."""

    def end(self, sequence: Sequence) -> None:
        """The last token was generated, or the sequence was ended; `sequence.finish` says why."""


class Place(enum.Enum):
    """Where in the engine a sequence is."""

    NEW = enum.auto()
    WAITING = enum.auto()
    RUNNING = enum.auto()
    ENDED = enum.auto()


class Sequence:
    """Its numbers belong to the engine; sinks only read them."""

    __slots__ = (
        *(
            "request_id",
            "adapter",
            "prompt",
            "reply",
            "sink",
            "place",
            "finish",
            "generated",
            "known",
            "computed",
            "scheduled",
        ),
        *(
            "blocks",
            "capacity",
            "hashes",
            "root",
            "sealed",
            "next_seal",
            "cached",
            "arrived",
            "admitted",
            "first_at",
            "last_at",
        ),
    )

    def __init__(
        self,
        prompt: array[int],
        reply: Reply,
        sink: Sink,
        hashes: list[int],
        root: int = 0,
        adapter: str = "",
        request_id: str = "",
    ) -> None:
        self.prompt = prompt
        self.reply = reply
        self.sink = sink
        self.request_id = request_id
        """The name by which `/abort_requests` finds it; the choices of one prompt share it."""
        self.adapter = adapter
        """The LoRA adapter that it asks for; empty for the model itself."""
        self.place = Place.NEW
        self.finish = ""
        self.generated = 0
        self.known = len(prompt)
        """Tokens that exist: the prompt's and the generated ones."""
        self.computed = 0
        """How many of the known tokens have their KV in blocks."""
        self.scheduled = 0
        """Tokens that the step under way computes."""
        self.blocks: list[int] = []
        self.capacity = 0
        """Tokens that the blocks have room for."""
        self.hashes = hashes
        """Of all full blocks known so far; empty without a prefix cache."""
        self.root = root
        """What the first block's hash follows."""
        self.sealed = 0
        """Blocks that were given to the prefix cache."""
        self.next_seal = 0
        """How many computed tokens fill the next block."""
        self.cached = 0
        """Prompt tokens found in the prefix cache when it was first admitted."""
        self.arrived = self.admitted = self.first_at = self.last_at = 0.0
        """Times of the engine's clock."""

    @property
    def stop_reason(self) -> str | int | None:
        """The stop string or token id that ended it; None of one that was ended before it came to that."""
        return self.reply.stop if self.finish == "stop" else None
