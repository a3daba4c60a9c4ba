"""`/v1/responses`: OpenAI's Responses API. Answers are kept in memory if VLLM_ENABLE_RESPONSES_API_STORE says so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from dp_vllm.sim import constraint, errors, fields, template, tokens
from dp_vllm.sim.app import App, Kept
from dp_vllm.sim.constraint import Tool
from dp_vllm.sim.fields import INT64_LEAST, INT64_MOST, Field, Kind
from dp_vllm.sim.generation import answer_one
from dp_vllm.sim.reply import Fixed, fixed_text
from dp_vllm.sim.requests import Generate, convert
from dp_vllm.sim.response_frames import Ask, ResponseFrames
from dp_vllm.sim.sequence import Sequence

_LIMIT: Final = "max_output_tokens"
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
