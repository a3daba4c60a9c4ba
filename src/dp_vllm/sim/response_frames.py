"""Answers of `/v1/responses`, whole and as events."""

from __future__ import annotations

import time
import uuid
from typing import Any, Final

import msgspec

from dp_vllm.sim.sequence import Sequence

_ALWAYS_NULL: Final = (
    *("max_tool_calls", "prompt", "reasoning", "text", "top_logprobs", "usage", "user"),
    *("kv_transfer_params", "ec_transfer_params", "input_messages", "output_messages"),
)
"""Fields of a response that have a value in no answer given here, but `usage` at its end."""


class Ask(msgspec.Struct, kw_only=True):
    model: str | None = None
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = None
    previous_response_id: str | None = None
    request_id: str | None = None
    stream: bool | None = False
    background: bool | None = False
    store: bool | None = True
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    tools: list[dict[str, Any]] = []
    tool_choice: Any = "auto"
    text: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None


class ResponseFrames:
    """Events of one streamed response, numbered."""

    def __init__(self, body: Ask, model: str, reply_tokens: int) -> None:
        self.id = f"resp_{body.request_id or uuid.uuid4().hex}"
        self.keep = self.whole
        self._item_id = f"msg_{uuid.uuid4().hex}"
        self._call_id = f"fc_{uuid.uuid4().hex[:16]}"
        self._body = body
        self._model = model
        self._created = int(time.time())
        self._number = 0
        item = self._item_id.encode()
        self._before = (
            b"event: response.output_text.delta\n"
            b'data: {"type":"response.output_text.delta","item_id":"%b","output_index":0,"content_index":0,'
            b'"logprobs":[],"delta":"' % item
        )

    def response(self, status: str) -> dict[str, Any]:
        """The response without output."""
        body = self._body
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "model": self._model,
            "output": [],
            "instructions": body.instructions,
            "metadata": body.metadata,
            "incomplete_details": None,
            "parallel_tool_calls": True,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "tool_choice": body.tool_choice if body.tools else "none",
            "tools": body.tools,
            "background": bool(body.background),
            "max_output_tokens": body.max_output_tokens,
            "previous_response_id": body.previous_response_id,
            "service_tier": "auto",
            "truncation": "disabled",
        } | dict.fromkeys(_ALWAYS_NULL)

    def whole(self, sequence: Sequence) -> dict[str, Any]:
        """The finished response. As in vLLM, one that was aborted says "completed"."""
        status = "incomplete" if sequence.finish == "length" else "completed"
        prompt, generated = len(sequence.prompt), sequence.generated
        usage = {
            "input_tokens": prompt,
            "input_tokens_details": {
                "cached_tokens": sequence.cached,
                "cache_write_tokens": 0,
                "input_tokens_per_turn": [],
                "cached_tokens_per_turn": [],
            },
            "output_tokens": generated,
            "output_tokens_details": {
                "reasoning_tokens": 0,
                "tool_output_tokens": 0,
                "output_tokens_per_turn": [],
                "tool_output_tokens_per_turn": [],
            },
            "total_tokens": prompt + generated,
        }
        reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
        item = self._output(sequence, sequence.reply.text(0, generated), "completed")
        return self.response(status) | {"output": [item], "usage": usage, "incomplete_details": reason}

    def start(self) -> bytes:
        response = self.response("in_progress")
        return self._event("response.created", {"response": response}) + self._event(
            "response.in_progress", {"response": response}
        )

    def opening(self, sequence: Sequence) -> bytes:
        if sequence.reply.call is not None:
            item = self._output(sequence, "", "in_progress")
            return self._event("response.output_item.added", {"output_index": 0, "item": item})
        added = self._event("response.output_item.added", {"output_index": 0, "item": self._item([], "in_progress")})
        part = _part("") | {"logprobs": []}
        return added + self._event("response.content_part.added", self._place() | {"part": part})

    def delta(self, sequence: Sequence, start: int, end: int) -> bytes:
        if sequence.reply.call is not None:
            place = {"item_id": self._call_id, "output_index": 0, "delta": sequence.reply.text(start, end)}
            return self._event("response.function_call_arguments.delta", place)
        number, self._number = self._number, self._number + 1
        return b'%b%b","sequence_number":%d}\n\n' % (self._before, sequence.reply.escaped(start, end), number)

    def ending(self, sequence: Sequence, start: int) -> bytes:
        rest = self.delta(sequence, start, sequence.generated) if start < sequence.generated else b""
        text, call = sequence.reply.text(0, sequence.generated), sequence.reply.call
        item = self._output(sequence, text, "completed")
        if call is not None:
            done = {"item_id": self._call_id, "output_index": 0, "arguments": text, "name": call.name}
            ended = self._event("response.function_call_arguments.done", done)
            return rest + ended + self._event("response.output_item.done", {"output_index": 0, "item": item})
        return b"".join(
            (
                rest,
                self._event("response.output_text.done", self._place() | {"text": text, "logprobs": []}),
                self._event("response.content_part.done", self._place() | {"part": _part(text)}),
                self._event("response.output_item.done", {"output_index": 0, "item": item}),
            )
        )

    def done(self, sequence: Sequence) -> bytes:
        return self._event("response.completed", {"response": self.keep(sequence)})

    def failure(self) -> bytes:
        return b""

    def _output(self, sequence: Sequence, text: str, status: str) -> dict[str, Any]:
        """What is answered: a message, or the call of a tool."""
        call = sequence.reply.call
        if call is None:
            return self._item([_part(text)], status)
        item = {"id": self._call_id, "type": "function_call", "call_id": call.id, "name": call.name}
        return item | {"arguments": text, "status": status} | dict.fromkeys(("async", "caller", "namespace"))

    def _item(self, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
        return {
            "id": self._item_id,
            "type": "message",
            "role": "assistant",
            "content": content,
            "status": status,
            "phase": None,
        }

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _event(self, kind: str, data: dict[str, Any]) -> bytes:
        number, self._number = self._number, self._number + 1
        body = {"type": kind} | data | {"sequence_number": number}
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode(body))


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": None}
