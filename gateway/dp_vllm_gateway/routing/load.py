"""What a decision knows of one endpoint that may be picked, and the units in which it is counted."""

from typing import Final, Protocol

from dp_vllm_gateway.routing.remembered import Remembered

BYTES_PER_TOKEN: Final = 4
"""English text under today's tokenizers, roughly. Tokens that routing speaks of are counted so, not by a tokenizer."""

PREFILL_TOKENS_PER_SECOND: Final = 15_000.0
"""How fast an engine is taken to read prompts until it has shown how fast it is."""

STEP_SECONDS: Final = 0.02
"""Waits that differ by less than an engine's step are equal: the work begins with the next step either way."""


class Load(Protocol):
    """What one decision sees of an endpoint that may be picked."""

    @property
    def name(self) -> str: ...

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens that were given to it, are not in its cache, and have not yet begun to be answered."""

    @property
    def sequences(self) -> int:
        """Sequences in flight, each to its last byte."""

    @property
    def handicap(self) -> int:
        """Sequences that it is taken to have besides, so that not everything goes to one that has just begun."""

    @property
    def tokens_per_second(self) -> float:
        """How fast it reads prompts."""

    @property
    def remembered(self) -> Remembered:
        """The prompts' beginnings that its cache is taken to hold."""
