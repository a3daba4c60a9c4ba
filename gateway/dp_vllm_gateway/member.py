"""What the pool knows of one endpoint, and what one look at it found."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from dp_vllm.endpoints import Endpoint, State
from dp_vllm_gateway.routing.load import PREFILL_TOKENS_PER_SECOND
from dp_vllm_gateway.routing.remembered import Remembered
from dp_vllm_gateway.upstream import Connections

CACHE_TOKENS: Final = 500_000
"""How many tokens an engine's KV cache is taken to hold that does not say."""


class Prefill(msgspec.Struct, gc=False):
    """A prompt that an engine is to read.

    Where the answer is not streamed nobody tells when it has been read, so it is taken to be at some time.
    """

    done_at: float
    tokens: int
    surely_at: float = 0.0
    """When even a far faster engine than this one is taken to be has read it: nobody is kept back for it any longer."""
    alone_since: float = 0.0
    """When it was sent to an engine that had nothing else to read; 0 if there was something."""


class InFlight(NamedTuple):
    """What one process of the gateway, or several, have in flight at an endpoint."""

    requests: int = 0
    sequences: int = 0
    waiting_tokens: int = 0


NOWHERE: Final = InFlight()


@dataclass(slots=True, eq=False)
class Member:
    """What the pool knows of one endpoint."""

    endpoint: Endpoint
    connections: Connections
    host: bytes
    """The Host header's value."""
    answer_line: bytes
    """The header line that tells a client who answered it."""
    available: bool = False
    """Requests may be sent to it. The pool decides this, over all endpoints."""
    healthy: bool = False
    probed: bool = False
    failed_probes: int = 0
    failed_connections: int = 0
    ejected_until: float = 0.0
    ejections: int = 0
    available_since: float = 0.0
    sequences: int = 0
    """In flight from here and `elsewhere`."""
    handicap: int = 0
    """Sequences that a decision takes it to have besides, while it is new."""
    requests: int = 0
    """In flight from here."""
    waiting_tokens: int = 0
    """From here and `elsewhere`."""
    elsewhere: InFlight = NOWHERE
    """What the gateway's other processes have in flight there."""
    tokens_per_second: float = PREFILL_TOKENS_PER_SECOND
    """How fast the engine reads prompts, as learned."""
    cache_tokens: int = CACHE_TOKENS
    """How many tokens the engine's KV cache holds, as the engine says."""
    remembered: Remembered = field(default_factory=Remembered)
    """What of it the engine's prefix cache is taken to hold."""
    prefills: deque[Prefill] = field(default_factory=deque)
    models: frozenset[str] = frozenset()
    adapters: frozenset[str] = frozenset()
    """As last seen; only looked for where several models are served."""
    scrape: bytes = b""
    """The engine's `/metrics`, as last read."""

    lives: int = 0
    """How often it became healthy."""

    @property
    def name(self) -> str:
        return self.endpoint.name

    @property
    def own(self) -> InFlight:
        """What this process has in flight there."""
        elsewhere = self.elsewhere
        return InFlight(
            self.requests, self.sequences - elsewhere.sequences, self.waiting_tokens - elsewhere.waiting_tokens
        )

    def unread(self, now: float) -> int:
        """Tokens that it surely has not read, from here and `elsewhere`."""
        unread = self.waiting_tokens
        for prefill in self.prefills:
            if prefill.surely_at <= now:
                unread -= prefill.tokens
        return unread

    @property
    def life(self) -> str:
        """Another one after each death of the engine, as far as is known."""
        return f"{self.endpoint.name} {self.endpoint.incarnation} {self.lives}"

    def knows(self, model: str | None) -> bool:
        """Whether that is what clients call its model, or an adapter of it."""
        return model in self.models or model in self.adapters

    def serves(self, state: State) -> bool:
        """Whether that is its state, and its own answers say that it can serve."""
        return self.endpoint.state is state and self.healthy


class Seen(NamedTuple):
    """What one look at an endpoint found."""

    healthy: bool
    certain: bool
    """Nobody listens, or the engine itself says that it is dead: no second look is needed."""
    models: frozenset[str] | None = None
    adapters: frozenset[str] | None = None
    scrape: bytes | None = None
