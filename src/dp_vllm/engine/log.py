"""What an engine's log says of its start, and of its end: only the few lines that a user most often needs explained.

Read from vLLM's own messages; what is not known here is shown as the engine wrote it.
"""

import re
from collections.abc import Sequence
from typing import Final

_PROGRESS: Final = (
    (r"Fetching \d+ files: +(\d+)%", "downloading the model, {} %"),
    (r"Loading .*checkpoint shards: +(\d+)%", "loading weights, {} %"),
    (r"Capturing CUDA graph.*: +(\d+)%", "capturing CUDA graphs, {} %"),
    (r"Starting to load model", "loading weights"),
    (r"torch\.compile|Compiling a graph", "compiling the model"),
    (r"Model loading took|Loading weights took", "weights are loaded"),
    (r"KV cache size", "warming up"),
    (r"Application startup complete", "about to be ready"),
)

_CAUSES: Final = (
    (
        r"CUDA out of memory|less than desired (?:GPU|CPU) memory utilization",
        "the memory of the GPU does not suffice: see who else uses it, or lower --gpu-memory-utilization",
    ),
    (
        r"No available memory for the cache blocks|larger than the maximum number of tokens that can be stored in KV",
        "the model leaves too little memory for its KV cache: lower --max-model-len, or use more GPUs a replica (-tp)",
    ),
    (
        r"No CUDA GPUs are available|no CUDA-capable device|driver version is insufficient|Failed to infer device type",
        "no GPU that the engine can use was found: see whether nvidia-smi works",
    ),
    (
        r"GatedRepoError|gated repo|401 Client Error",
        "the model is gated: accept its licence at the hub and set HF_TOKEN",
    ),
    (
        r"is not a local folder and is not a valid model identifier|RepositoryNotFoundError|Repository Not Found"
        r"|Invalid repository ID or local directory",
        "there is no such model: give a hub id or the path of a model's directory",
    ),
    (r"unrecognized arguments: (.+)", "the engine does not know {}"),
    (r"error: (argument .+)", "the engine refuses {}"),
    (r"[Aa]ddress already in use", "the engine's socket or port is in use by somebody else"),
    (r"No space left on device", "the disk, or /dev/shm, is full"),
)

LONGEST: Final = 300
"""Characters of a line of the engine's that are shown."""


def progress(lines: Sequence[str]) -> str:
    """How far the start is, by the newest line that says so; empty if none does."""
    return _newest(lines, _PROGRESS)


def likely_cause(lines: Sequence[str]) -> str:
    """Why the engine ended, by its last lines; empty if they say nothing that is known here."""
    return _newest(lines, _CAUSES)


def _newest(lines: Sequence[str], patterns: Sequence[tuple[str, str]]) -> str:
    for line in reversed(lines):
        for pattern, sentence in patterns:
            if match := re.search(pattern, line):
                return sentence.format(*match.groups())[:LONGEST]
    return ""
