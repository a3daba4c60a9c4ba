"""What the router decided, and what it saw of each endpoint then."""

from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from dp_vllm_gateway.routing.load import Load

Candidate = TypeVar("Candidate", bound=Load)

View = tuple[Load, int, float, int, int]
"""What one decision saw of one endpoint, whose load will have changed when somebody asks why: the endpoint, its waiting
tokens, tokens per second, sequences, handicap. A plain tuple, because every request makes one for each endpoint."""


class Choice(msgspec.Struct, Generic[Candidate], frozen=True, gc=False):
    """An endpoint, and why it is this one."""

    picked: Candidate
    reason: str
    """For people: `prefix 0.93`."""
    cached_tokens: int = 0
    """Of the prompt's tokens, those that the endpoint's cache is taken to hold."""
    views: Sequence[View] = ()
    """The endpoints that were compared, if somebody wants to know."""
    depths: Sequence[int] = ()
    """How many blocks of the prompt the cache of each is taken to hold, if prompts were compared."""
    costs: Sequence[int] = ()
    """By what `by_prefix` compared them (`seconds_of`)."""
