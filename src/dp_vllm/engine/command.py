"""The exact command line and environment of one engine: `vllm serve`, another Python's vllm, or the simulated engine.

Pure: it knows what an engine must be told, not who starts it or on which GPUs it is best placed.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """A program to start: its words, and how its environment differs from ours."""

    argv: tuple[str, ...]
    variables: Mapping[str, str]
    """What is set in its environment, over what stands there."""
    unset: tuple[str, ...] = ()
    """What is taken out of its environment."""

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """The whole environment of the program, made from `base` (usually `os.environ`)."""
        return {name: value for name, value in base.items() if name not in self.unset} | dict(self.variables)
