"""Token counts of an answer."""

from __future__ import annotations

from typing import Any

from dp_vllm.sim.sequence import Sequence


def usage(sequences: list[Sequence], *, details: bool, choices: int = 1) -> dict[str, Any]:
    """Counts of a request whose prompts each have `choices` sequences, one after the other."""
    prompts = sequences[::choices]
    prompt = sum(len(sequence.prompt) for sequence in prompts)
    generated = sum(sequence.generated for sequence in sequences)
    cached = {"cached_tokens": sum(sequence.cached for sequence in prompts)} if details else None
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + generated,
        "completion_tokens": generated,
        "prompt_tokens_details": cached,
        "completion_tokens_details": None,
    }
