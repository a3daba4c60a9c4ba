"""`/v1/completions`: OpenAI's plain completions, as vLLM says them."""

from __future__ import annotations

import time
from array import array
from typing import Any

import msgspec
from aiohttp import web

from dp_vllm.sim import tokens
from dp_vllm.sim.app import FINGERPRINT, App, request_id
from dp_vllm.sim.errors import bad_request
from dp_vllm.sim.generation import Ask, Frame, generate, logprobs_of
from dp_vllm.sim.reply import fixed_text
from dp_vllm.sim.requests import Completion, read_completion
from dp_vllm.sim.sequence import Sequence


async def completions(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    """Answer one prompt, or several."""
    body = read_completion(value)
    model = app.model(body.model)
    limit = 1 if body.echo and body.max_tokens == 0 else body.max_tokens
    prompts = app.admit(body, read_prompts(body.prompt), limit)
    identity = "cmpl-" + request_id(request, body.request_id)
    ask = Ask(
        id=identity,
        created=int(time.time()),
        model=model,
        body=body,
        prompts=prompts,
        request_ids=[f"{identity}-{index}" for index in range(len(prompts))],
        limit=limit,
        fixed=lambda seed: fixed_text(body.response_format, body.structured_outputs, seed),
        logprobs=body.logprobs,
    )
    return await generate(app, request, ask, CompletionFrame, whole)


def read_prompts(prompt: str | list[Any] | None) -> list[array[int]]:
    """Text, a list of texts, ids or a list of lists of ids, as lists of ids. Raises Refusal."""
    if isinstance(prompt, str):
        return [tokens.encode(prompt)]
    if not prompt:
        raise bad_request("You must pass at least one prompt")
    if all(type(part) is int for part in prompt):
        return [_ids(prompt)]
    return [tokens.encode(part) if isinstance(part, str) else _ids(part) for part in prompt]


def _ids(part: Any) -> array[int]:
    if not isinstance(part, list) or not all(type(token) is int for token in part):
        raise bad_request("The prompt must be text, a list of texts, token ids, or a list of lists of ids.")
    for token in part:
        if not 0 <= token < tokens.VOCABULARY_SIZE:
            raise bad_request(f"Token id {token} is out of vocabulary")
    return array("I", part)


def whole(ask: Ask, sequences: list[Sequence], usage: dict[str, Any]) -> dict[str, Any]:
    """The answer that is not streamed."""
    return {
        "id": ask.id,
        "object": "text_completion",
        "created": ask.created,
        "model": ask.model,
        "choices": [_choice(ask, index, sequence) for index, sequence in enumerate(sequences)],
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": usage,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def _choice(ask: Ask, index: int, sequence: Sequence) -> dict[str, Any]:
    text = sequence.reply.text(0, sequence.generated)
    return {
        "index": index,
        "text": _echo(ask, sequence) + text,
        "logprobs": None if ask.logprobs is None else _logprobs(sequence, 0, sequence.generated),
        "finish_reason": sequence.finish,
        "stop_reason": sequence.stop_reason,
        "token_ids": list(sequence.reply.tokens(0, sequence.generated)) if ask.body.return_token_ids else None,
        "prompt_logprobs": None,
        "prompt_token_ids": list(sequence.prompt) if ask.body.return_token_ids else None,
        "routed_experts": None,
    }


def _echo(ask: Ask, sequence: Sequence) -> str:
    return tokens.decode(sequence.prompt) if isinstance(ask.body, Completion) and ask.body.echo else ""


def _logprobs(sequence: Sequence, start: int, end: int) -> dict[str, Any]:
    pairs = logprobs_of(sequence, start, end)
    offsets = [len(sequence.reply.text(0, index)) for index in range(start, end)]
    return {
        "text_offset": offsets,
        "token_logprobs": [logprob for _text, logprob in pairs],
        "tokens": [text for text, _logprob in pairs],
        "top_logprobs": [{text: logprob} for text, logprob in pairs],
    }


class CompletionFrame(Frame):
    """Events of one choice. The plain ones are put together from three parts."""

    __slots__ = ("_after", "_before")

    def __init__(self, ask: Ask, index: int) -> None:
        super().__init__(ask, index)
        head = msgspec.json.encode(ask.head("text_completion"))[:-1]
        self._before = b'data: %b,"choices":[{"index":%d,"text":"' % (head, index)
        self._after = (
            b'","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}\n\n'
        )

    def opening(self, sequence: Sequence) -> bytes:
        echo = _echo(self._ask, sequence)
        choice = self._choice(sequence, 0, 0, None) | {"text": echo}
        return self._event({"choices": [choice]}, sequence, 0) if echo else b""

    def delta(self, sequence: Sequence, start: int, end: int) -> bytes:
        if self._plain:
            return b"%b%b%b" % (self._before, sequence.reply.escaped(start, end), self._after)
        return self._event({"choices": [self._choice(sequence, start, end, None)]}, sequence, end)

    def ending(self, sequence: Sequence, start: int) -> bytes:
        choice = self._choice(sequence, start, sequence.generated, sequence.finish)
        last = {"choices": [choice | {"stop_reason": sequence.stop_reason}], "system_fingerprint": FINGERPRINT}
        return self._event(last, sequence, sequence.generated)

    def _choice(self, sequence: Sequence, start: int, end: int, finish: str | None) -> dict[str, Any]:
        ask = self._ask
        return {
            "index": self._index,
            "text": sequence.reply.text(start, end),
            "logprobs": None if ask.logprobs is None else _logprobs(sequence, start, end),
            "finish_reason": finish,
            "stop_reason": None,
            "prompt_token_ids": list(sequence.prompt) if ask.body.return_token_ids and not start else None,
            "token_ids": list(sequence.reply.tokens(start, end)) if ask.body.return_token_ids else None,
        }

    def _event(self, more: dict[str, Any], sequence: Sequence, generated: int) -> bytes:
        return self._ask.event(self._ask.head("text_completion") | more, sequence, generated)
