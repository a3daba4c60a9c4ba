"""`/v1/chat/completions`: OpenAI's chat, as vLLM says it."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from aiohttp import web

from dp_vllm.sim import constraint, fields, template, tokens
from dp_vllm.sim.app import FINGERPRINT, App, request_id
from dp_vllm.sim.constraint import Tool
from dp_vllm.sim.fields import Problem
from dp_vllm.sim.generation import Ask, Frame, generate, logprobs_of
from dp_vllm.sim.reply import Fixed, fixed_text
from dp_vllm.sim.requests import Chat, read_chat
from dp_vllm.sim.sequence import Sequence


async def chat(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    """Answer one chat."""
    body = read_chat(value)
    model = app.model(body.model)
    constraint.check_tools(body.tools, body.tool_choice)
    tools = [_tool(tool, place) for place, tool in enumerate(body.tools or [])]
    choice = _choice_of(body, tools)
    prompt = tokens.encode(template.render(body.messages, body.tools, answer=body.add_generation_prompt))
    named = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    limit = getattr(body, named)
    prompts = app.admit(body, [prompt], limit, named)

    def fixed(seed: int) -> Fixed | None:
        call = constraint.call_of(tools, choice, body.messages, seed)
        if call is not None:
            return Fixed(call.arguments, call)
        return fixed_text(body.response_format, body.structured_outputs, seed)

    identity = "chatcmpl-" + request_id(request, body.request_id)
    ask = Ask(
        id=identity,
        created=int(time.time()),
        model=model,
        body=body,
        prompts=prompts,
        request_ids=[identity],
        limit=limit,
        fixed=fixed,
        logprobs=body.alternatives,
    )
    return await generate(app, request, ask, ChatFrame, whole)


def _tool(tool: dict[str, Any], place: int) -> Tool:
    """One of the body's `tools`. Raises Refusal."""
    function, where = tool.get("function"), f"body.tools.{place}.function"
    if function is None:
        raise fields.refusal([Problem("missing", where, "Field required", tool)])
    if not isinstance(function, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise fields.refusal([Problem("model_attributes_type", where, message, function)])
    if not isinstance(function.get("name"), str):
        raise fields.refusal([Problem("missing", f"{where}.name", "Field required", function)])
    return Tool(function["name"], function.get("parameters"))


def _choice_of(body: Chat, tools: list[Tool]) -> str | Tool:
    if isinstance(body.tool_choice, dict):
        return constraint.named(tools, body.tool_choice["function"]["name"])
    return body.tool_choice or ("auto" if tools else "none")


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
    text, call = sequence.reply.text(0, sequence.generated), sequence.reply.call
    called = call is not None and sequence.finish == "stop"
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "" if called else text,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
    }
    if called and call is not None:
        function = {"name": call.name, "arguments": text}
        message["tool_calls"] = [{"id": call.id, "type": "function", "function": function}]
    message["reasoning"] = None
    return {
        "index": index,
        "message": message,
        "logprobs": None if ask.logprobs is None else _logprobs(ask, sequence, 0, sequence.generated),
        "finish_reason": _finish(sequence),
        "stop_reason": sequence.stop_reason,
        "token_ids": list(sequence.reply.tokens(0, sequence.generated)) if ask.body.return_token_ids else None,
        "routed_experts": None,
    }


def _finish(sequence: Sequence) -> str:
    """Why the answer ended; as in vLLM a call of a tool that the client named is no reason of its own."""
    call = sequence.reply.call
    return "tool_calls" if call is not None and not call.named and sequence.finish == "stop" else sequence.finish


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
        first = self._event({"choices": [choice], **ids, "prompt_text": None}, sequence, 0)
        call = sequence.reply.call
        if call is None:
            return first
        named = {"id": call.id, "type": "function", "index": 0, "function": {"name": call.name}}
        head = self._choice(sequence, 0, 0, None) | {"delta": {"content": None, "tool_calls": [named]}}
        return first + self._event({"choices": [head]}, sequence, 0)

    def delta(self, sequence: Sequence, start: int, end: int) -> bytes:
        if self._plain and sequence.reply.call is None:
            return b"%b%b%b" % (self._before, sequence.reply.escaped(start, end), self._after)
        return self._event({"choices": [self._choice(sequence, start, end, None)]}, sequence, end)

    def ending(self, sequence: Sequence, start: int) -> bytes:
        choice = self._choice(sequence, start, sequence.generated, _finish(sequence))
        ids = choice.pop("token_ids")
        choice |= {"stop_reason": sequence.stop_reason, "token_ids": ids}
        last = {"choices": [choice], "system_fingerprint": FINGERPRINT}
        return self._event(last, sequence, sequence.generated)

    def _choice(self, sequence: Sequence, start: int, end: int, finish: str | None) -> dict[str, Any]:
        ask = self._ask
        return {
            "index": self._index,
            "delta": _delta(sequence, start, end),
            "logprobs": None if ask.logprobs is None else _logprobs(ask, sequence, start, end),
            "finish_reason": finish,
            "token_ids": list(sequence.reply.tokens(start, end)) if ask.body.return_token_ids else None,
        }

    def _event(self, more: dict[str, Any], sequence: Sequence, generated: int) -> bytes:
        return self._ask.event(self._ask.head("chat.completion.chunk") | more, sequence, generated)


def _delta(sequence: Sequence, start: int, end: int) -> dict[str, Any]:
    text = sequence.reply.text(start, end)
    if sequence.reply.call is None:
        return {"content": text}
    return {"content": None, "tool_calls": [{"index": 0, "function": {"arguments": text}}]}
