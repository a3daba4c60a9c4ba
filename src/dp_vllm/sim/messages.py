"""`/v1/messages`: Anthropic's dialect, as vLLM speaks it."""

from __future__ import annotations

import json
from array import array
from typing import Any, Final

import msgspec
from aiohttp import web

from dp_vllm.sim import constraint, fields, template, tokens
from dp_vllm.sim.app import App, request_id
from dp_vllm.sim.constraint import Tool
from dp_vllm.sim.errors import DEAD, bad_request
from dp_vllm.sim.fields import Field, Kind, Problem
from dp_vllm.sim.generation import answer_one
from dp_vllm.sim.reply import Fixed
from dp_vllm.sim.requests import Generate, convert
from dp_vllm.sim.sequence import Sequence

_STOP_REASONS: Final = {"stop": "end_turn", "length": "max_tokens"}
"""Of anything else, `abort` too, vLLM says null in a stream, and nothing in a whole answer."""


_COUNTED: Final = (Field("model", Kind.TEXT, required=True), Field("messages", Kind.ANY, required=True))
_FIELDS: Final = (
    *_COUNTED,
    Field("max_tokens", Kind.WHOLE, required=True),
    Field("stop_sequences", Kind.STOPS, nullable=True),
    Field("stream", Kind.SWITCH, nullable=True),
    *(Field(name, Kind.NUMBER, nullable=True) for name in ("temperature", "top_p")),
    Field("top_k", Kind.WHOLE, nullable=True),
)


class Messages(msgspec.Struct, kw_only=True):
    model: str | None = None
    messages: list[dict[str, Any]]
    max_tokens: int | None = None
    system: str | list[dict[str, Any]] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = False
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


async def messages(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    """Answer one message."""
    body = convert(fields.read(value, _FIELDS), Messages)
    if body.max_tokens is not None and body.max_tokens < 1:
        error = ValueError("max_tokens must be positive")
        given = value["max_tokens"]
        raise fields.refusal(
            [Problem("value_error", "body.max_tokens", f"Value error, {error}", given, {"error": error})]
        )
    model = app.model(body.model)
    wanted = Generate(
        stop=body.stop_sequences,
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
    )
    tools = [Tool(str(tool.get("name")), tool.get("input_schema")) for tool in body.tools or []]
    choice = _choice_of(body, tools)

    def fixed(seed: int) -> Fixed | None:
        call = constraint.call_of(tools, choice, body.messages, seed)
        return None if call is None else Fixed(call.arguments, call)

    identity = "chatcmpl-" + request_id(request)
    frames = MessageFrames(identity, model)
    streamed = frames if body.stream else None
    prompt = _prompt(body)
    limit_name = "max_completion_tokens"  # vLLM turns the request into a chat
    return await answer_one(
        app, request, prompt, wanted, model, identity, streamed, lambda one: _whole(frames, one), limit_name, fixed
    )


async def count_tokens(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    """How long the prompt would be."""
    body = convert(fields.read(value, _COUNTED), Messages)
    app.model(body.model)
    count = len(_prompt(body))
    return app.json({"input_tokens": count, "context_management": {"original_input_tokens": count}})


def _prompt(body: Messages) -> array[int]:
    if not body.messages:
        raise bad_request("messages must contain at least one item")
    system = [{"role": "system", "content": body.system}] if body.system else []
    return tokens.encode(template.render([*system, *body.messages], body.tools))


def _choice_of(body: Messages, tools: list[Tool]) -> str | Tool:
    choice = body.tool_choice or {"type": "auto"}
    if choice.get("type") == "tool":
        return constraint.named(tools, choice.get("name"))
    names = {"auto": "auto", "any": "required", "none": "none"}
    return names.get(str(choice.get("type")), "auto") if tools else "none"


def _whole(frames: MessageFrames, sequence: Sequence) -> dict[str, Any]:
    text, call = sequence.reply.text(0, sequence.generated), sequence.reply.call
    block: dict[str, Any] = {"type": "text", "text": text}
    if call is not None and sequence.finish == "stop":
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(text)}
    usage = {"input_tokens": len(sequence.prompt), "output_tokens": sequence.generated}
    reason = _stop_reason(sequence)
    return frames.head() | {"content": [block], "usage": usage} | ({"stop_reason": reason} if reason else {})


def _stop_reason(sequence: Sequence) -> str | None:
    if sequence.reply.call is not None and sequence.finish == "stop":
        return "tool_use"
    return _STOP_REASONS.get(sequence.finish)


class MessageFrames:
    """Events of one streamed message."""

    def __init__(self, identity: str, model: str) -> None:
        self._id = identity
        self._model = model

    def head(self) -> dict[str, Any]:
        return {"id": self._id, "type": "message", "role": "assistant", "model": self._model}

    def start(self) -> bytes:
        return b""

    def opening(self, sequence: Sequence) -> bytes:
        usage = {"input_tokens": len(sequence.prompt), "output_tokens": 0}
        message = self.head() | {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        block: dict[str, Any] = {"type": "text", "text": ""}
        if (call := sequence.reply.call) is not None:
            block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        return _event("message_start", {"message": message}) + _event(
            "content_block_start", {"index": 0, "content_block": block}
        )

    def delta(self, sequence: Sequence, start: int, end: int) -> bytes:
        if sequence.reply.call is not None:
            delta = {"type": "input_json_delta", "partial_json": sequence.reply.text(start, end)}
            return _event("content_block_delta", {"index": 0, "delta": delta})
        return (
            b"event: content_block_delta\n"
            b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%b"}}\n\n'
            % sequence.reply.escaped(start, end)
        )

    def ending(self, sequence: Sequence, start: int) -> bytes:
        rest = self.delta(sequence, start, sequence.generated) if start < sequence.generated else b""
        usage = {"input_tokens": len(sequence.prompt), "output_tokens": sequence.generated}
        stop = {"stop_reason": _stop_reason(sequence), "stop_sequence": None}
        return (
            rest + _event("content_block_stop", {"index": 0}) + _event("message_delta", {"delta": stop, "usage": usage})
        )

    def done(self, sequence: Sequence) -> bytes:
        return _event("message_stop", {})

    def failure(self) -> bytes:
        error = {"type": "internal_error", "message": DEAD}
        return _event("error", {"error": error})


def _event(kind: str, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind} | data))
