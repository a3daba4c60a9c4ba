"""What the pool knows of one endpoint, and what one look at it found."""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from dp_vllm.endpoints import Endpoint, State
from dp_vllm_gateway.upstream import Connections


class Prefill(msgspec.Struct, gc=False):
    """A prompt that is taken to have been read at some time, because nobody tells when an answer is not streamed."""

    done_at: float
    tokens: int


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
    sequences: int = 0
    requests: int = 0
    waiting_tokens: int = 0
    prefills: deque[Prefill] = field(default_factory=deque)
    models: frozenset[str] = frozenset()
    scrape: bytes = b""
    """The engine's `/metrics`, as last read."""

    lives: int = 0
    """How often it became healthy."""

    @property
    def name(self) -> str:
        return self.endpoint.name

    @property
    def life(self) -> str:
        """Another one after each death of the engine, as far as is known."""
        return f"{self.endpoint.name} {self.endpoint.incarnation} {self.lives}"

    def serves(self, state: State) -> bool:
        """Whether that is its state, and its own answers say that it can serve."""
        return self.endpoint.state is state and self.healthy


class Seen(NamedTuple):
    """What one look at an endpoint found."""

    healthy: bool
    certain: bool
    """Nobody listens, or the engine itself says that it is dead: no second look is needed."""
    models: frozenset[str] | None = None
    scrape: bytes | None = None
