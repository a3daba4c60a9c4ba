"""Bodies of requests, parsed once. Fields that nothing depends on here are let through."""

from __future__ import annotations

import json
import re
from typing import Any, Final, TypeVar

import msgspec

from dp_vllm.sim import fields
from dp_vllm.sim.errors import Invalid, Refusal, bad_request, bad_value, unreadable
from dp_vllm.sim.fields import INT64_LEAST, INT64_MOST, Field, Kind, Problem

_T = TypeVar("_T")
_MOST_PROMPTS: Final = 1024
"""VLLM_MAX_COMPLETION_PROMPTS by default."""
_MOST_SALT_CHARS: Final = 128


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
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    bad_words: list[str] = []
    allowed_token_ids: list[int] | None = None
    prompt_logprobs: int | None = None
    truncate_prompt_tokens: int | None = None
    stream_interval: int | None = None
    thinking_token_budget: int | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None

    @property
    def alternatives(self) -> int | None:
        """How many of the likeliest tokens are requested with each token; None: no probabilities at all."""
        return None


class Chat(Generate, kw_only=True):
    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    """Their functions are read by `chat`."""
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = True
    logprobs: bool | None = False
    top_logprobs: int | None = None
    add_generation_prompt: bool = True

    @property
    def alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class Completion(Generate, kw_only=True):
    prompt: str | list[Any] | None = None
    max_tokens: int | None = 16
    echo: bool | None = False
    logprobs: int | None = None

    @property
    def alternatives(self) -> int | None:
        return self.logprobs


def _numbers(*names: str) -> tuple[Field, ...]:
    return tuple(Field(name, Kind.NUMBER, nullable=True) for name in names)


def _switches(*names: str) -> tuple[Field, ...]:
    return tuple(Field(name, Kind.SWITCH) for name in names)


_SAMPLING: Final = (
    Field("seed", Kind.WHOLE, nullable=True, least=INT64_LEAST, most=INT64_MOST),
    Field("stop", Kind.STOPS, nullable=True),
    Field("stream", Kind.SWITCH, nullable=True),
    *_numbers("temperature", "top_p"),
    Field("user", Kind.TEXT, nullable=True),
    *_switches("use_beam_search"),
    Field("top_k", Kind.WHOLE, nullable=True),
    *_numbers("min_p", "repetition_penalty"),
    Field("length_penalty", Kind.NUMBER),
    Field("stop_token_ids", Kind.WHOLES, nullable=True),
    *_switches("include_stop_str_in_output", "ignore_eos"),
    Field("min_tokens", Kind.WHOLE),
    *_switches("skip_special_tokens", "spaces_between_special_tokens"),
    Field("truncate_prompt_tokens", Kind.WHOLE, nullable=True, least=-1, most=INT64_MOST),
    Field("allowed_token_ids", Kind.WHOLES, nullable=True),
    Field("prompt_logprobs", Kind.WHOLE, nullable=True),
    Field("logprob_token_ids", Kind.WHOLES, nullable=True),
    Field("bad_words", Kind.TEXTS),
    *_switches("add_special_tokens"),
    Field("priority", Kind.WHOLE, least=INT64_LEAST, most=INT64_MOST),
    Field("request_id", Kind.TEXT),
    Field("return_token_ids", Kind.SWITCH, nullable=True),
    Field("stream_interval", Kind.WHOLE, nullable=True, least=1),
)
COMPLETION_FIELDS: Final = (
    Field("model", Kind.TEXT, nullable=True),
    Field("prompt", Kind.PROMPT, nullable=True),
    Field("echo", Kind.SWITCH, nullable=True),
    *_numbers("frequency_penalty"),
    Field("logit_bias", Kind.BIASES, nullable=True),
    Field("logprobs", Kind.WHOLE, nullable=True),
    Field("max_tokens", Kind.WHOLE, nullable=True),
    Field("n", Kind.WHOLE),
    *_numbers("presence_penalty"),
    *_SAMPLING,
)
CHAT_FIELDS: Final = (
    Field("messages", Kind.LIST, required=True),
    Field("model", Kind.TEXT, nullable=True),
    *_numbers("frequency_penalty"),
    Field("logit_bias", Kind.BIASES, nullable=True),
    Field("logprobs", Kind.SWITCH, nullable=True),
    Field("top_logprobs", Kind.WHOLE, nullable=True),
    Field("max_tokens", Kind.WHOLE, nullable=True),
    Field("max_completion_tokens", Kind.WHOLE, nullable=True),
    Field("n", Kind.WHOLE, nullable=True),
    *_numbers("presence_penalty"),
    *_SAMPLING,
)


def read_completion(value: dict[str, Any]) -> Completion:
    """The body of `/v1/completions`. Raises Refusal."""
    _check_shared(value, "logprobs")
    prompt = value.get("prompt")
    if prompt is None or prompt == "":
        raise bad_value("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    if isinstance(prompt, list) and len(prompt) > _MOST_PROMPTS and not isinstance(prompt[0], int):
        text = f"prompt list length {len(prompt)} exceeds the maximum allowed count of {_MOST_PROMPTS}. To increase"
        message = f"{text} this limit, set the VLLM_MAX_COMPLETION_PROMPTS environment variable."
        raise bad_value(message, "prompt")
    if value.get("max_tokens") is None:
        value = {name: inner for name, inner in value.items() if name != "max_tokens"}
    return convert(fields.read(value, COMPLETION_FIELDS), Completion)


def read_chat(value: dict[str, Any]) -> Chat:
    """The body of `/v1/chat/completions`. Raises Refusal."""
    _check_shared(value, "top_logprobs")
    messages = value.get("messages", [])
    if messages is None or isinstance(messages, int | float):
        raise bad_request(f"{type(messages).__name__!r} object is not iterable")
    if value.get("continue_final_message") and value.get("add_generation_prompt"):
        raise bad_request("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
    top = value.get("top_logprobs")
    if top is not None and (top == -1 or top > 0) and not value.get("logprobs"):
        raise bad_value("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
    chat = convert(fields.read(value, CHAT_FIELDS), Chat)
    if not chat.messages:
        raise bad_request("Cannot apply chat template to an empty conversation. Provide at least one message.")
    return chat


def _check_shared(value: dict[str, Any], alternatives: str) -> None:
    """What vLLM checks before it reads a body's fields; `alternatives` names the count of probabilities."""
    check_salt(value.get("cache_salt"))
    if value.get("stream_options") and not value.get("stream"):
        raise bad_value("Stream options can only be defined when `stream=True`.", "stream_options")
    for name in ("prompt_logprobs", alternatives):
        count = value.get(name)
        if count is not None and not isinstance(count, int | float):
            raise bad_value(f"`{name}` must be an integer.", name, count)
    count = value.get("prompt_logprobs")
    if count is not None and value.get("stream") and (count > 0 or count == -1):
        raise bad_value("`prompt_logprobs` are not available when `stream=True`.", "prompt_logprobs")
    for name in ("prompt_logprobs", alternatives):
        count = value.get(name)
        if count is not None and count < 0 and count != -1:
            raise bad_value(f"`{name}` must be a positive value or -1.", name, count)
    _check_integers(value.get("vllm_xargs"))
    budget = value.get("thinking_token_budget")
    if budget is not None and (type(budget) is not int or budget < -1):
        message = "`thinking_token_budget` must be a non-negative integer or -1 for unlimited."
        raise bad_value(message, "thinking_token_budget", budget)


def _check_integers(value: object) -> None:
    """Raises Refusal for a number within `vllm_xargs` that vLLM's core cannot be told."""
    if isinstance(value, int) and not INT64_LEAST <= value < 2**64:
        raise bad_value("extra_args integers must be between -2**63 and 2**64 - 1.", "extra_args")
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_integers(inner)


def check_salt(salt: object) -> None:
    """Raises Refusal for a salt that vLLM's cache does not take."""
    if salt is None:
        return
    if not isinstance(salt, str) or not salt:
        raise bad_value("Parameter 'cache_salt' must be a non-empty string if provided.", "cache_salt")
    if len(salt) > _MOST_SALT_CHARS or set(salt) & set("@/\\\0"):
        message = (
            f"Parameter 'cache_salt' must be at most {_MOST_SALT_CHARS} characters and must not contain '@', '/',"
            " '\\\\', or NUL."
        )
        raise bad_value(message, "cache_salt")


def read_json(body: bytes, content_type: str) -> dict[str, Any]:
    """The body as an object. Raises Refusal, worded as FastAPI's validation is."""
    if content_type.split(";")[0].strip().lower() != "application/json":
        message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise Invalid(400, message, "Bad Request")
    try:
        value = json.loads(body) if body else None
    except json.JSONDecodeError as error:
        context = {"error": error.msg}
        raise fields.refusal(
            [Problem("json_invalid", f"body.{error.pos}", "JSON decode error", {}, context)]
        ) from error
    except (ValueError, RecursionError) as error:
        raise unreadable() from error
    if value is None:
        raise fields.refusal([Problem("missing", "body", "Field required", None)])
    if not isinstance(value, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise fields.refusal([Problem("model_attributes_type", "body", message, value)])
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
        return fields.refusal([Problem("missing", f"body.{missing[1]}", "Field required", value)])
    wrong = re.search(r"at `\$\.(.+)`", message)
    if wrong is None:
        return fields.refusal([Problem("value_error", "body", message, value)])
    where, given = wrong[1].replace("[", ".").replace("]", ""), value.get(re.split(r"\W", wrong[1])[0])
    return fields.refusal([Problem("type_error", f"body.{where}", message.partition(" - at ")[0], given)])
