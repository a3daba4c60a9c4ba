"""Bodies of requests, parsed once. Fields that nothing depends on here (temperature, tools, ...) are let through."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec

from dp_vllm.sim.errors import Refusal, bad_request, invalid

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
        said = "Unsupported Media Type: Only 'application/json' is allowed"
        raise invalid("value_error", "header.content-type", said, f"'input': {content_type!r:.80}")
    try:
        value = json.loads(body)
    except ValueError as error:
        place, reason = getattr(error, "pos", 0), getattr(error, "msg", str(error))
        more = f"'input': '<dict of 0 items>', 'ctx': {{'error': {reason!r}}}"
        raise invalid("json_invalid", f"body.{place}", "JSON decode error", more) from error
    if not isinstance(value, dict):
        raise invalid("model_attributes_type", "body", "Input should be a valid dictionary", f"'input': {value!r:.80}")
    return value


def convert(value: dict[str, Any], wanted: type[_T]) -> _T:
    """The body as one of the types above. Raises Refusal that names the field."""
    try:
        return msgspec.convert(value, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise _refused(str(error), value) from error


def _refused(message: str, value: dict[str, Any]) -> Refusal:
    """The same in the framework's words, as far as they are known here."""
    missing = re.search(r"missing required field `(\w+)`", message)
    if missing:
        return invalid("missing", f"body.{missing[1]}", "Field required", "'input': '<dict>'")
    wrong = re.search(r"at `\$\.(.+)`", message)
    if wrong is None:
        return invalid("value_error", "body", message, "'input': '<dict>'")
    where, given = wrong[1].replace("[", ".").replace("]", ""), value.get(re.split(r"\W", wrong[1])[0])
    if message.startswith("Expected `int") and isinstance(given, str):
        said = "Input should be a valid integer, unable to parse string as an integer"
        return invalid("int_parsing", f"body.{where}", said, f"'input': {given!r:.80}")
    return invalid("type_error", f"body.{where}", message.partition(" - at ")[0], f"'input': {given!r:.80}")


def check_positive(name: str, value: int | None, *, least: int = 1) -> None:
    if value is not None and value < least:
        raise bad_request(f"{name} must be at least {least}, got {value}.", name)
