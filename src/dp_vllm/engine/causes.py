"""Why an engine ended, by what was said: the rules of `causes.toml`, which anybody can add to.

What no rule knows is shown as the engine wrote it. The messages were read in the sources of vLLM, PyTorch, NCCL and
huggingface_hub, and in reports of their users.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import msgspec


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of end: a table of the file."""

    reason: str
    """In one CamelCase word, for programs."""
    pattern: str
    """A regular expression that finds a line which says so."""
    cause: str
    """For people; `{}` stands for the pattern's group."""
    fix: str
    """What helps."""
    samples: tuple[str, ...]
    """Such lines."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why one engine ended."""

    reason: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}: {self.fix}"


@functools.cache
def rules() -> tuple[Rule, ...]:
    """All rules, what is a cause before what follows from it."""
    text = resources.files("dp_vllm.engine").joinpath("causes.toml").read_bytes()
    tables: dict[str, tuple[Rule, ...]] = msgspec.toml.decode(text, type=dict[str, tuple[Rule, ...]])
    return tables["rule"]


def cause(lines: Sequence[str]) -> Cause | None:
    """By the first rule that any of the lines satisfies, of these by the newest; None if there is none."""
    text = "\n".join(lines)
    for rule in rules():
        if found := list(re.finditer(rule.pattern, text, re.MULTILINE)):
            return Cause(rule.reason, rule.cause.format(*found[-1].groups()), rule.fix)
    return None
