"""`/v1/messages`: Anthropic's dialect, as vLLM speaks it, which ends its streams with `[DONE]` too."""

from __future__ import annotations

from array import array
from typing import Any, Final

import msgspec
from aiohttp import web

from dp_vllm.sim import template, tokens
from dp_vllm.sim.app import App, request_id
from dp_vllm.sim.errors import DEAD, Plain, Refusal, bad_request
from dp_vllm.sim.generation import answer_one
from dp_vllm.sim.requests import Generate, convert
from dp_vllm.sim.sequence import Sequence

_STOP_REASONS: Final = {"stop": "end_turn", "length": "max_tokens"}
"""Of anything else, `abort` too, vLLM says null."""


class Messages(msgspec.Struct, kw_only=True):
    model: str | None = None
    messages: list[dict[str, Any]]
    max_tokens: int | None = None
    system: str | list[dict[str, Any]] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = False
    tools: list[dict[str, Any]] | None = None


class MessagesRefusal(Plain):
    """A refusal in Anthropic's shape."""

    def __init__(self, refusal: Refusal) -> None:
        error = {"type": refusal.kind, "message": refusal.message}
        super().__init__(refusal.status, {"type": "error", "error": error})


async def messages(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    """Answer one message."""
    try:
        return await _messages(app, request, value)
    except Refusal as refusal:
        raise MessagesRefusal(refusal) from refusal


async def count_tokens(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    """How long the prompt would be."""
    try:
        body = convert(value, Messages)
        app.model(body.model)
        count = len(_prompt(body))
    except Refusal as refusal:
        raise MessagesRefusal(refusal) from refusal
    return app.json({"input_tokens": count, "context_management": {"original_input_tokens": count}})


async def _messages(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    body = convert(value, Messages)
    model = app.model(body.model)
    if body.max_tokens is None:
        raise bad_request("max_tokens is required.", "max_tokens")
    wanted = Generate(stop=body.stop_sequences, max_tokens=body.max_tokens)
    identity = "chatcmpl-" + request_id(request)
    frames = MessageFrames(identity, model)
    return await answer_one(
        app, request, _prompt(body), wanted, model, frames if body.stream else None, lambda one: _whole(frames, one)
    )


def _prompt(body: Messages) -> array[int]:
    if not body.messages:
        raise bad_request("messages must contain at least one item")
    system = [{"role": "system", "content": body.system}] if body.system else []
    return tokens.encode(template.render([*system, *body.messages], body.tools))


def _whole(frames: MessageFrames, sequence: Sequence) -> dict[str, Any]:
    text = {"type": "text", "text": sequence.reply.text(0, sequence.generated)}
    usage = {"input_tokens": len(sequence.prompt), "output_tokens": sequence.generated}
    return frames.head() | {"content": [text], "usage": usage} | _stop(sequence)


def _stop(sequence: Sequence) -> dict[str, Any]:
    return {"stop_reason": _STOP_REASONS.get(sequence.finish), "stop_sequence": None}


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
        block = {"type": "text", "text": ""}
        return _event("message_start", {"message": message}) + _event(
            "content_block_start", {"index": 0, "content_block": block}
        )

    def delta(self, sequence: Sequence, start: int, end: int) -> bytes:
        return (
            b"event: content_block_delta\n"
            b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%b"}}\n\n'
            % sequence.reply.escaped(start, end)
        )

    def ending(self, sequence: Sequence, start: int) -> bytes:
        rest = self.delta(sequence, start, sequence.generated) if start < sequence.generated else b""
        usage = {"input_tokens": len(sequence.prompt), "output_tokens": sequence.generated}
        return (
            rest
            + _event("content_block_stop", {"index": 0})
            + _event("message_delta", {"delta": _stop(sequence), "usage": usage})
        )

    def done(self, sequence: Sequence) -> bytes:
        return _event("message_stop", {}) + b"data: [DONE]\n\n"

    def failure(self) -> bytes:
        error = {"type": "internal_error", "message": DEAD}
        return _event("error", {"error": error}) + b"data: [DONE]\n\n"


def _event(kind: str, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind} | data))
