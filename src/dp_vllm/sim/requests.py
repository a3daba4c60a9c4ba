"""Bodies of requests, parsed once. Fields that nothing depends on here (temperature, tools, ...) are let through."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from dp_vllm.sim.errors import Refusal, bad_request

_T = TypeVar("_T")


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class Generate(msgspec.Struct, kw_only=True):
    """What chat and completions have in common."""

    model: str | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    n: int | None = 1
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    request_id: str | None = None
    cache_salt: str | None = None
    return_token_ids: bool | None = False


class Chat(Generate, kw_only=True):
    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = None
    add_generation_prompt: bool = True


class Completion(Generate, kw_only=True):
    prompt: str | list[Any] | None = None
    max_tokens: int | None = 16
    echo: bool | None = False
    logprobs: int | None = None


def read_json(body: bytes, content_type: str) -> dict[str, Any]:
    """The body as an object. Raises Refusal, worded as FastAPI's validation is."""
    if content_type.split(";")[0].strip().lower() not in ("application/json", ""):
        raise Refusal(400, "['Unsupported Media Type: Only \\'application/json\\' is allowed']")
    try:
        value = json.loads(body)
    except ValueError as error:
        place = getattr(error, "pos", 0)
        reason = getattr(error, "msg", str(error))
        detail = {"type": "json_invalid", "loc": ("body", place), "msg": "JSON decode error", "input": {}}
        raise Refusal(400, str([detail | {"ctx": {"error": reason}}])) from error
    if not isinstance(value, dict):
        detail = {"type": "model_attributes_type", "loc": ("body",), "msg": "Input should be a valid dictionary"}
        raise Refusal(400, str([detail]))
    return value


def convert(value: dict[str, Any], wanted: type[_T]) -> _T:
    """The body as one of the types above. Raises Refusal that names the field."""
    try:
        return msgspec.convert(value, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise Refusal(400, str(error), "Bad Request") from error


def check_positive(name: str, value: int | None, *, least: int = 1) -> None:
    if value is not None and value < least:
        raise bad_request(f"{name} must be at least {least}, got {value}.", name)
