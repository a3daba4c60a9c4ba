"""How a gateway may choose a replica: the words that the command line, the custom resource and the gateway share."""

import enum
from typing import Final


class Policy(enum.Enum):
    """Ways to choose a replica for a request."""

    PREFIX = "prefix"
    """Where the least has to be waited for, less what is saved because the prompt's beginning is cached there."""
    LEAST_LOAD = "least-load"
    """Where the least has to be waited for, then where the fewest sequences are in flight."""
    ROUND_ROBIN = "round-robin"
    """One after the other."""
    POWER_OF_TWO = "power-of-two"
    """Of two that chance names the one with the least load."""
    SESSION = "session"
    """Always the same one for what a client calls a session; without a session the one with the least load."""
    CONSISTENT_HASH = "consistent-hash"
    """The same one for prompts that begin alike, unless it has a quarter more in flight than the mean."""


DEFAULT_POLICY: Final = Policy.PREFIX

BY_WAIT: Final = frozenset({Policy.PREFIX, Policy.LEAST_LOAD})
"""Policies under which it is worth waiting in the gateway: they go where the least has to be waited for."""

AHEAD_SECONDS: Final = 0.25
"""How much of reading a replica may have ahead by default: what it reads in a few of its steps."""

PREFIX_WEIGHT: Final = 12.0
"""How many seconds of waiting a second of saved prefill is worth by default: what is kept in one cache is saved again
by the next turn of the conversation."""
