"""`/v1/chat/completions`: OpenAI's chat, as vLLM says it."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from aiohttp import web

from dp_vllm.sim import template, tokens
from dp_vllm.sim.app import FINGERPRINT, App, request_id
from dp_vllm.sim.generation import Ask, Frame, generate, logprobs_of
from dp_vllm.sim.requests import read_chat
from dp_vllm.sim.sequence import Sequence


async def chat(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    """Answer one chat."""
    body = read_chat(value)
    model = app.model(body.model)
    prompt = tokens.encode(template.render(body.messages, body.tools, answer=body.add_generation_prompt))
    named = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    limit = getattr(body, named)
    prompts = app.admit(body, [prompt], limit, named)
    identity = "chatcmpl-" + request_id(request, body.request_id)
    ask = Ask(
        id=identity,
        created=int(time.time()),
        model=model,
        body=body,
        prompts=prompts,
        request_ids=[identity],
        limit=limit,
        logprobs=body.alternatives,
    )
    return await generate(app, request, ask, ChatFrame, whole)


def whole(ask: Ask, sequences: list[Sequence], usage: dict[str, Any]) -> dict[str, Any]:
    """The answer that is not streamed."""
    return {
        "id": ask.id,
        "object": "chat.completion",
        "created": ask.created,
        "model": ask.model,
        "choices": [_choice(ask, index, sequence) for index, sequence in enumerate(sequences)],
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": usage,
        "prompt_logprobs": None,
        "prompt_token_ids": list(sequences[0].prompt) if ask.body.return_token_ids else None,
        "prompt_text": None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def _choice(ask: Ask, index: int, sequence: Sequence) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": sequence.reply.text(0, sequence.generated),
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "reasoning": None,
    }
    return {
        "index": index,
        "message": message,
        "logprobs": None if ask.logprobs is None else _logprobs(ask, sequence, 0, sequence.generated),
        "finish_reason": sequence.finish,
        "stop_reason": sequence.stop_reason,
        "token_ids": list(sequence.reply.tokens(0, sequence.generated)) if ask.body.return_token_ids else None,
        "routed_experts": None,
    }


def _logprobs(ask: Ask, sequence: Sequence, start: int, end: int) -> dict[str, Any]:
    content = []
    for text, logprob in logprobs_of(sequence, start, end):
        entry = {"token": text, "logprob": logprob, "bytes": list(text.encode())}
        content.append(entry | {"top_logprobs": [entry] if ask.logprobs else []})
    return {"content": content}


class ChatFrame(Frame):
    """Events of one choice. The plain ones are put together from three parts."""

    __slots__ = ("_after", "_before")

    def __init__(self, ask: Ask, index: int) -> None:
        super().__init__(ask, index)
        head = msgspec.json.encode(ask.head("chat.completion.chunk"))[:-1]
        self._before = b'data: %b,"choices":[{"index":%d,"delta":{"content":"' % (head, index)
        self._after = b'"},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'

    def opening(self, sequence: Sequence) -> bytes:
        delta = {"role": "assistant", "content": ""}
        choice = {"index": self._index, "delta": delta, "logprobs": None, "finish_reason": None}
        ids = {"prompt_token_ids": list(sequence.prompt) if self._ask.body.return_token_ids else None}
        return self._event({"choices": [choice], **ids, "prompt_text": None}, sequence, 0)

    def delta(self, sequence: Sequence, start: int, end: int) -> bytes:
        if self._plain:
            return b"%b%b%b" % (self._before, sequence.reply.escaped(start, end), self._after)
        return self._event({"choices": [self._choice(sequence, start, end, None)]}, sequence, end)

    def ending(self, sequence: Sequence, start: int) -> bytes:
        choice = self._choice(sequence, start, sequence.generated, sequence.finish)
        ids = choice.pop("token_ids")
        choice |= {"stop_reason": sequence.stop_reason, "token_ids": ids}
        last = {"choices": [choice], "system_fingerprint": FINGERPRINT}
        return self._event(last, sequence, sequence.generated)

    def _choice(self, sequence: Sequence, start: int, end: int, finish: str | None) -> dict[str, Any]:
        ask = self._ask
        return {
            "index": self._index,
            "delta": {"content": sequence.reply.text(start, end)},
            "logprobs": None if ask.logprobs is None else _logprobs(ask, sequence, start, end),
            "finish_reason": finish,
            "token_ids": list(sequence.reply.tokens(start, end)) if ask.body.return_token_ids else None,
        }

    def _event(self, more: dict[str, Any], sequence: Sequence, generated: int) -> bytes:
        return self._ask.event(self._ask.head("chat.completion.chunk") | more, sequence, generated)
