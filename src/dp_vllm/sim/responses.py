"""`/v1/responses`: OpenAI's Responses API. Answers are kept in memory if VLLM_ENABLE_RESPONSES_API_STORE says so."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from dp_vllm.sim import constraint, errors, fields, template, tokens
from dp_vllm.sim.app import App, Kept
from dp_vllm.sim.constraint import Tool
from dp_vllm.sim.fields import INT64_LEAST, INT64_MOST, Field, Kind
from dp_vllm.sim.generation import answer_one
from dp_vllm.sim.reply import Fixed, fixed_text
from dp_vllm.sim.requests import Generate, convert
from dp_vllm.sim.sequence import Sequence

_LIMIT: Final = "max_output_tokens"
_ALWAYS_NULL: Final = (
    *("max_tool_calls", "prompt", "reasoning", "text", "top_logprobs", "usage", "user"),
    *("kv_transfer_params", "ec_transfer_params", "input_messages", "output_messages"),
)
"""Fields of a response that have a value in no answer given here, but `usage` at its end."""


_FIELDS: Final = (
    Field("background", Kind.SWITCH, nullable=True),
    Field("input", Kind.ANY, required=True),
    Field("max_output_tokens", Kind.WHOLE, nullable=True),
    Field("max_tool_calls", Kind.WHOLE, nullable=True),
    Field("model", Kind.TEXT, nullable=True),
    Field("store", Kind.SWITCH, nullable=True),
    Field("stream", Kind.SWITCH, nullable=True),
    Field("temperature", Kind.NUMBER, nullable=True),
    Field("top_logprobs", Kind.WHOLE, nullable=True),
    Field("top_p", Kind.NUMBER, nullable=True),
    Field("top_k", Kind.WHOLE, nullable=True),
    Field("min_p", Kind.NUMBER, nullable=True),
    Field("request_id", Kind.TEXT),
    Field("priority", Kind.WHOLE, least=INT64_LEAST, most=INT64_MOST),
    Field("seed", Kind.WHOLE, nullable=True, least=INT64_LEAST, most=INT64_MOST),
    Field("repetition_penalty", Kind.NUMBER, nullable=True),
)


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


async def create(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    """Answer one request, streamed, whole, or later (`background`)."""
    body = convert(fields.read(value, _FIELDS), Ask)
    model, keep = app.model(body.model), app.options.features.response_store and body.store is not False
    if body.background and not keep:
        raise errors.bad_request("background can only be used when `store` is true", "background")
    frames = ResponseFrames(body, model, app.options.reply_tokens)
    messages = _messages(app, body)
    prompt = tokens.encode(template.render(messages))
    fixed = _constraint(body, messages)
    wanted = Generate(
        seed=body.seed,
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
    )

    def whole(sequence: Sequence) -> dict[str, Any]:
        answer = frames.whole(sequence)
        if keep:
            app.keep(answer, [*messages, *answer["output"]])
        return answer

    frames.keep = whole
    if not body.background:
        streamed = frames if body.stream else None
        return await answer_one(app, request, prompt, wanted, model, f"{frames.id}_0", streamed, whole, _LIMIT, fixed)
    queued = frames.response("queued")
    app.keep(queued, [])
    work = answer_one(app, request, prompt, wanted, model, f"{frames.id}_0", None, whole, _LIMIT, fixed)
    app.background[frames.id] = app.group.create_task(_later(app, frames, work))
    return app.json(queued)


def _constraint(body: Ask, messages: list[dict[str, Any]]) -> Callable[[int], Fixed | None]:
    """What tools and formats make of an answer, by its seed. Raises Refusal."""
    tools = [
        Tool(str(tool.get("name")), tool.get("parameters")) for tool in body.tools if tool.get("type") == "function"
    ]
    choice: str | Tool = body.tool_choice if isinstance(body.tool_choice, str) and tools else "none"
    if isinstance(body.tool_choice, dict) and body.tool_choice.get("type") == "function":
        choice = constraint.named(tools, body.tool_choice.get("name"))
    wanted = (body.text or {}).get("format")
    if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
        wanted = {"type": "json_schema", "json_schema": wanted}

    def fixed(seed: int) -> Fixed | None:
        call = constraint.call_of(tools, choice, messages, seed)
        return fixed_text(wanted, body.structured_outputs, seed) if call is None else Fixed(call.arguments, call)

    return fixed


async def _later(app: App, frames: ResponseFrames, work: Awaitable[web.StreamResponse]) -> None:
    """Do the work of a response in the background; a refusal becomes its status."""
    try:
        await work
    except errors.Refusal as refusal:
        app.keep(frames.response("failed") | {"error": {"code": "server_error", "message": refusal.message}}, [])
    finally:
        del app.background[frames.id]


async def retrieve(app: App, request: web.BaseRequest) -> web.StreamResponse:
    """`GET /v1/responses/{response_id}`."""
    return app.json(_kept(app, request["names"]["response_id"]).answer)


async def cancel(app: App, request: web.BaseRequest) -> web.StreamResponse:
    """`POST /v1/responses/{response_id}/cancel`: of those in the background."""
    kept = _kept(app, request["names"]["response_id"])
    identity = kept.answer["id"]
    if identity not in app.background:
        raise errors.bad_request("Cannot cancel a synchronous response.", "response_id")
    app.background[identity].cancel()
    app.keep(kept.answer | {"status": "cancelled"}, kept.messages)
    return app.json(app.responses[identity].answer)


def _kept(app: App, identity: str) -> Kept:
    if not identity.startswith("resp_"):
        message = f"Invalid 'response_id': '{identity}'. Expected an ID that begins with 'resp'."
        raise errors.bad_request(message, "response_id")
    if identity not in app.responses:
        raise errors.Refusal(404, f"Response with id '{identity}' not found.", "NotFoundError", "response_id")
    return app.responses[identity]


def _messages(app: App, body: Ask) -> list[dict[str, Any]]:
    """The whole conversation: earlier turns, instructions, input."""
    earlier = _kept(app, body.previous_response_id).messages if body.previous_response_id else []
    system = [{"role": "system", "content": body.instructions}] if body.instructions else []
    given = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    return [*system, *map(_message, [*earlier, *given])]


def _message(item: dict[str, Any]) -> dict[str, Any]:
    """An item of a conversation as a chat's message."""
    if "role" in item:
        return item
    if item.get("type") == "function_call":
        return {"role": "assistant", "content": str(item.get("arguments", ""))}
    return {"role": "tool", "content": str(item.get("output", ""))}


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
