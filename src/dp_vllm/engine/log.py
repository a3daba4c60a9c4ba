"""What an engine's log says of its start, and of its end: only the few lines that a user most often needs explained.

Read from vLLM's own messages; what is not known here is shown as the engine wrote it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dp_vllm.engine import causes

_STAGES: Final = (
    (r"downloading the model, (\d+) %", "Downloading", "downloading the model"),  # the download Job's words
    (r"Fetching \d+ files: +(\d+)%", "Downloading", "downloading the model"),
    (r"Loading .*checkpoint shards: +(\d+)%", "Loading", "loading weights"),
    (r"Capturing CUDA graph.*: +(\d+)%", "Capturing", "capturing CUDA graphs"),
    (r"Resolved architecture", "Loading", "reading the model's configuration"),
    (r"Starting to load model|Time spent downloading weights", "Loading", "loading weights"),
    (
        r"saved AOT compiled function|Directly load AOT|torch\.compile (?:took|takes) [\d.]+ s in total",
        "WarmingUp",
        "the model is compiled",
    ),
    (r"Warming up model for the compilation", "Compiling", "compiling the model"),
    (r"(?<!disabling )torch\.compile|Compiling a graph", "Compiling", "compiling the model"),
    (r"Model loading took|Loading weights took", "Loading", "weights are loaded"),
    (r"KV cache size", "WarmingUp", "warming up"),
    (r"Application startup complete", "WarmingUp", "about to be ready"),
)

LONGEST: Final = 300
"""Characters of a line of the engine's that are shown."""


_PREFIX: Final = re.compile(
    r"^(?:\([^)]* pid=\d+\) ?)?(?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?"
)
"""What vLLM writes before each line: the process, the level, the time and the place."""

_ERROR: Final = re.compile(r"^[\w.]*(?:Error|Exception): \S")
_NO_CAUSE: Final = "See root cause above"


@dataclass(frozen=True, slots=True)
class Stage:
    """How far the start of an engine is."""

    phase: str
    """In one word: Downloading, Loading, Compiling, Capturing, WarmingUp."""
    words: str
    percent: int | None = None

    def __str__(self) -> str:
        return self.words if self.percent is None else f"{self.words}, {self.percent} %"

    @property
    def is_past_compiling(self) -> bool:
        """The model was read and compiled: its files are in the page cache, and the compile cache is written."""
        return self.phase in ("Capturing", "WarmingUp")


def stage(lines: Sequence[str]) -> Stage | None:
    """How far the start is, by the newest line that says so; None if none does."""
    for line in reversed(lines):
        for pattern, phase, words in _STAGES:
            if match := re.search(pattern, line):
                return Stage(phase, words, *(int(group) for group in match.groups()))
    return None


def likely_cause(lines: Sequence[str]) -> str:
    """Why the engine ended, and what helps, by its last lines; empty if they say nothing that is known here."""
    return str(causes.cause(lines) or "")[:LONGEST]


def last_error(lines: Sequence[str]) -> str:
    """The newest error that names its cause, as the engine wrote it; else its last words; empty if it said nothing."""
    said = [line for line in (_PREFIX.sub("", line).strip() for line in lines) if line]
    errors = (line for line in reversed(said) if _ERROR.match(line) and _NO_CAUSE not in line)
    return next(errors, said[-1] if said else "")[:LONGEST]
