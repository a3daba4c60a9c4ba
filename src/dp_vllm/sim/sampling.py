"""Which numbers of a request vLLM takes, and in which words it refuses the others. All of it is pure."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from typing import Final

from dp_vllm.sim.errors import Refusal, bad_request, bad_value
from dp_vllm.sim.requests import Generate

_MOST_SEQUENCES: Final = 16_384
"""VLLM_MAX_N_SEQUENCES by default."""
_ENCODABLE: Final = 2**64
"""Whole numbers from here on cannot be passed to vLLM's core: 500."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the engine allows."""

    longest: int
    """Tokens of a prompt and its answer."""
    max_logprobs: int
    vocabulary_size: int
    reasoning: bool
    """Whether a budget of tokens for reasoning is taken; nothing is reasoned."""


def check_length(name: str, limit: int | None, bounds: Bounds) -> None:
    """Raises Refusal if more tokens are requested than the model's length."""
    if limit is not None and limit > bounds.longest:
        message = f"{name}={limit} cannot be greater than max_model_len={bounds.longest}. Please request fewer output"
        raise bad_value(f"{message} tokens.", name, limit)


def check_truncation(body: Generate, bounds: Bounds) -> None:
    """Raises Refusal if the prompt is to be cut to more than the model's length."""
    limit = body.truncate_prompt_tokens
    if limit is not None and limit > bounds.longest:
        message = f"truncate_prompt_tokens={limit} cannot be greater than max_model_len = {bounds.longest}. Please"
        raise bad_value(f"{message} request a smaller truncation size.", "truncate_prompt_tokens", limit)


def truncated(prompt: array[int], limit: int | None, requested: int | None, bounds: Bounds) -> array[int]:
    """The prompt's last tokens, if it is to be cut; -1 cuts it so that one token of an answer has room."""
    if limit is None:
        return prompt
    count = (bounds.longest - 1 if requested else bounds.longest) if limit == -1 else limit
    return prompt[len(prompt) - count :] if count < len(prompt) else prompt


def check(body: Generate, max_tokens: int, prompts: int, bounds: Bounds) -> None:
    """Raises Refusal for the first number out of its bounds; `max_tokens` is what is left of the requested ones."""
    _check_count(body, prompts)
    _check_floats(body)
    _check_lengths(body, max_tokens)
    _check_engine(body, bounds)


def _check_lengths(body: Generate, max_tokens: int) -> None:
    """Counts and texts that need no knowledge of the engine."""
    if body.top_k is not None and body.top_k < -1:
        raise bad_request(f"top_k must be 0 (disable), or at least 1, got {body.top_k}.")
    if body.min_p is not None and not 0.0 <= body.min_p <= 1.0:
        raise bad_request(f"min_p must be in [0, 1], got {body.min_p}.")
    if max_tokens < 1:
        raise bad_value(f"max_tokens must be at least 1, got {max_tokens}.", "max_tokens", max_tokens)
    if body.min_tokens < 0:
        raise bad_request(f"min_tokens must be greater than or equal to 0, got {body.min_tokens}.")
    if body.min_tokens > max_tokens:
        raise bad_request(f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {body.min_tokens}.")
    if any(not stop for stop in _stops(body)):
        raise bad_request("stop cannot contain an empty string.")
    if any(not word for word in body.bad_words):
        raise bad_request(f"bad_words cannot contain an empty string. Got bad_words={body.bad_words}")
    if (body.n or 1) > 1 and body.temperature == 0:
        raise bad_request(f"n must be 1 when using greedy sampling, got {body.n}.")


def _check_engine(body: Generate, bounds: Bounds) -> None:
    """What depends on the engine: its vocabulary and its features."""
    _check_tokens(body, bounds)
    if body.thinking_token_budget not in (None, -1) and not bounds.reasoning:
        message = "thinking_token_budget is set but reasoning_config is not configured. Please set --reasoning-parser"
        raise bad_request(f"{message} and/or --reasoning-config to use thinking_token_budget.")
    if max(body.top_k or 0, body.stream_interval or 0) >= _ENCODABLE:
        raise Refusal(500, "", "InternalServerError")


def _check_count(body: Generate, prompts: int) -> None:
    n = 1 if body.n is None else body.n
    if n < 1:
        raise bad_request(f"n must be at least 1, got {n}.")
    if n > _MOST_SEQUENCES:
        limit = "To increase this limit, set the VLLM_MAX_N_SEQUENCES environment variable."
        raise bad_request(f"n must be at most {_MOST_SEQUENCES}, got {n}. {limit}")
    if n * prompts > _MOST_SEQUENCES:
        raise bad_request(
            f"{prompts} prompts with n={n} are more than the {_MOST_SEQUENCES} answers that are simulated."
        )


def _check_floats(body: Generate) -> None:
    for name in ("presence_penalty", "frequency_penalty"):
        value = getattr(body, name)
        if value is not None and not -2.0 <= value <= 2.0:
            raise bad_request(f"{name} must be in [-2, 2], got {value}.")
    penalty, temperature, top_p = body.repetition_penalty, body.temperature, body.top_p
    if penalty is not None and not math.isfinite(penalty):
        raise bad_request(f"repetition_penalty must be a finite number, got {penalty}.")
    if penalty is not None and penalty <= 0.0:
        raise bad_request(f"repetition_penalty must be greater than zero, got {penalty}.")
    if temperature is not None:
        _check_temperature(temperature)
    if top_p is not None and not 0.0 < top_p <= 1.0:
        raise bad_value(f"top_p must be in (0, 1], got {top_p}.", "top_p", top_p)


def _check_temperature(value: float) -> None:
    if not math.isfinite(value):
        reason = "a finite number"
    elif value < 0.0:
        reason = "non-negative"
    elif value > 2.0:
        reason = "in [0, 2]"
    else:
        return
    raise bad_value(f"temperature must be {reason}, got {value}.", "temperature", value)


def _check_tokens(body: Generate, bounds: Bounds) -> None:
    """Counts of probabilities, and token ids that must exist."""
    for name, kind, count in (
        ("logprobs", "sample", body.alternatives),
        ("prompt_logprobs", "prompt", body.prompt_logprobs),
    ):
        wanted = bounds.vocabulary_size if count == -1 else count or 0
        if wanted > bounds.max_logprobs:
            text = f"Requested {kind} logprobs of {wanted}, which is greater than max allowed: {bounds.max_logprobs}"
            raise bad_value(text, name, wanted)
    for name, ids in (("logit_bias", _bias_ids(body.logit_bias or {})), ("stop_token_ids", body.stop_token_ids or [])):
        unknown = [token for token in ids if not 0 <= token < bounds.vocabulary_size]
        if unknown:
            text = f"token_id(s) {unknown} in {name} contain out-of-vocab token ids. Vocabulary size:"
            raise bad_value(f"{text} {bounds.vocabulary_size}", name, unknown)
    _check_allowed(body.allowed_token_ids, bounds)


def _check_allowed(ids: list[int] | None, bounds: Bounds) -> None:
    if ids is None:
        return
    if not ids:
        raise bad_value("allowed_token_ids is not None and empty!", "allowed_token_ids", ids)
    if any(not 0 <= token < bounds.vocabulary_size for token in ids):
        raise bad_value("allowed_token_ids contains out-of-vocab token id!", "allowed_token_ids", ids)


def _bias_ids(biases: dict[str, float]) -> list[int]:
    ids, wrong = [], []
    for name in biases:
        try:
            ids.append(int(name))
        except ValueError:
            wrong.append(name)
    if wrong:
        message = f"logit_bias contains key(s) that cannot be converted to integer token IDs: {wrong!r}"
        raise bad_value(message, "logit_bias", wrong)
    return ids


def _stops(body: Generate) -> list[str]:
    return [body.stop] if isinstance(body.stop, str) else body.stop or []
