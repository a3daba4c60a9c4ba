"""What answers teach: how fast an engine reads prompts, and how many of its tokens one of ours is. Pure."""

from typing import Final

from dp_vllm_gateway.routing.load import PREFILL_TOKENS_PER_SECOND

LEARN_FROM_TOKENS: Final = 2_000
"""A shorter prompt tells more of the engine's steps than of its pace."""

WIDEST: Final = 4.0
"""How many times more or less than taken at first anything is believed to be: a wrong guess of what was in the cache
looks like a very fast engine."""

_SHARE: Final = 0.1
"""Of what is known, how much one answer may change."""

_KEPT: Final = 0.999
_FIRST_WEIGHT: Final = 1_000.0
"""Tokens that would have to be seen before what was seen counts more than the first guess."""


def speed_after(tokens_per_second: float, tokens: int, seconds: float) -> float:
    """How fast an engine is taken to read after one prompt of so many tokens that found no other before it.

    A moving average: the next one of ten weighs a tenth.
    """
    seen = tokens / max(seconds, 1e-6)
    least, most = PREFILL_TOKENS_PER_SECOND / WIDEST, PREFILL_TOKENS_PER_SECOND * WIDEST
    return tokens_per_second + _SHARE * (min(max(seen, least), most) - tokens_per_second)


class TokenRatio:
    """How many tokens of the engines one estimated token is, by the answers that said how long their prompts were."""

    __slots__ = ("_counted", "_estimated")

    def __init__(self) -> None:
        self._counted = self._estimated = _FIRST_WEIGHT

    def learn(self, estimated: int, counted: int) -> None:
        """An engine has counted a prompt that was estimated."""
        self._estimated = self._estimated * _KEPT + estimated
        self._counted = self._counted * _KEPT + counted

    @property
    def value(self) -> float:
        """1 until something is known, and never beyond a `WIDEST` or its inverse."""
        return min(max(self._counted / self._estimated, 1 / WIDEST), WIDEST)
