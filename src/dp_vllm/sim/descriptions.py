"""What `/openapi.json` says of bodies: of the main routes the fields that are read, with an example to send."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from dp_vllm.sim import requests
from dp_vllm.sim.fields import Field, Kind

Schema = dict[str, Any]

_STRING: Final = {"type": "string"}
_INTEGER: Final = {"type": "integer"}
_OBJECT: Final = {"type": "object"}
_HELLO: Final = [{"role": "user", "content": "Hello"}]
_KINDS: Final[Mapping[Kind, Schema]] = {
    Kind.ANY: {},
    Kind.LIST: {"type": "array", "items": _OBJECT},
    Kind.SWITCH: {"type": "boolean"},
    Kind.TEXT: _STRING,
    Kind.TEXTS: {"type": "array", "items": _STRING},
    Kind.STOPS: {"anyOf": [_STRING, {"type": "array", "items": _STRING, "maxItems": 4}]},
    Kind.WHOLE: _INTEGER,
    Kind.WHOLES: {"type": "array", "items": _INTEGER},
    Kind.NUMBER: {"type": "number"},
    Kind.BIASES: {"type": "object", "additionalProperties": {"type": "number"}},
    Kind.PROMPT: {
        "anyOf": [
            _STRING,
            {"type": "array", "items": {"anyOf": [_STRING, _INTEGER, {"type": "array", "items": _INTEGER}]}},
        ]
    },
}
_ONE_OR_MORE: Final = {"anyOf": [_STRING, _KINDS[Kind.TEXTS]]}
_CONSTRAINTS: Final[dict[str, Schema]] = {
    "response_format": {
        "type": "object",
        "properties": {
            "type": {"enum": ["text", "json_object", "json_schema"]},
            "json_schema": {"type": "object", "properties": {"name": _STRING, "schema": _OBJECT}},
        },
        "required": ["type"],
    },
    "structured_outputs": {
        "type": "object",
        "properties": {
            "json": {},
            "regex": _STRING,
            "choice": {"type": "array", "items": _STRING},
            "json_object": {"type": "boolean"},
        },
    },
    "stream_options": {
        "type": "object",
        "properties": {"include_usage": {"type": "boolean"}, "continuous_usage_stats": {"type": "boolean"}},
    },
}
_TOOLS: Final[dict[str, Schema]] = {
    "tools": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "type": {"const": "function"},
                "function": {
                    "type": "object",
                    "properties": {"name": _STRING, "description": _STRING, "parameters": _OBJECT},
                    "required": ["name"],
                },
            },
            "required": ["type", "function"],
        },
    },
    "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required"]}, _OBJECT]},
}
_USAGE: Final = {
    "type": "object",
    "properties": dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), _INTEGER),
}
_ERROR: Final = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": _STRING,
                "type": _STRING,
                "param": {"type": ["string", "null"]},
                "code": _INTEGER,
            },
        }
    },
}


def _object(properties: Mapping[str, Schema], required: Iterable[str] = (), example: Any = None) -> Schema:
    made: Schema = {"type": "object", "properties": dict(properties), "required": list(required)}
    return made if example is None else made | {"example": example}


def _read(fields: Iterable[Field], more: Mapping[str, Schema], example: Any) -> Schema:
    """The schema of a body with these fields."""
    given = list(fields)
    properties: dict[str, Schema] = {}
    for field in given:
        schema = dict(_KINDS[field.kind])
        if field.least is not None:
            schema["minimum"] = field.least
        if field.most is not None:
            schema["maximum"] = field.most
        properties[field.name] = {"anyOf": [schema, {"type": "null"}]} if field.nullable else schema
    return _object({**properties, **more}, [field.name for field in given if field.required], example)


def _answer(kind: str, choice: Mapping[str, Schema]) -> Schema:
    choices = {"type": "array", "items": _object({"index": _INTEGER, **choice, "finish_reason": _STRING})}
    head = {"id": _STRING, "object": {"const": kind}, "created": _INTEGER, "model": _STRING}
    return _object({**head, "choices": choices, "system_fingerprint": _STRING, "usage": _USAGE})


COMPONENTS: Final[Mapping[str, Schema]] = {
    "ChatCompletionRequest": _read(requests.CHAT_FIELDS, _CONSTRAINTS | _TOOLS, {"messages": _HELLO, "max_tokens": 16}),
    "ChatCompletionResponse": _answer(
        "chat.completion",
        {"message": _object({"role": _STRING, "content": _STRING, "tool_calls": {"type": "array", "items": _OBJECT}})},
    ),
    "CompletionRequest": _read(requests.COMPLETION_FIELDS, _CONSTRAINTS, {"prompt": "Hello", "max_tokens": 16}),
    "CompletionResponse": _answer("text_completion", {"text": _STRING}),
    "ResponsesRequest": _object(
        {
            "model": _STRING,
            "input": {"anyOf": [_STRING, {"type": "array", "items": _OBJECT}]},
            "instructions": _STRING,
            "max_output_tokens": _INTEGER,
            "stream": {"type": "boolean"},
            "tools": {"type": "array", "items": _OBJECT},
            "tool_choice": {},
            "text": _OBJECT,
        },
        ["input"],
        {"input": "Hello", "max_output_tokens": 16},
    ),
    "AnthropicMessagesRequest": _object(
        {
            "model": _STRING,
            "messages": {"type": "array", "items": _OBJECT},
            "max_tokens": _INTEGER,
            "system": _STRING,
            "stream": {"type": "boolean"},
            "tools": {"type": "array", "items": _OBJECT},
            "tool_choice": _OBJECT,
        },
        ["model", "messages", "max_tokens"],
    ),
    "AnthropicCountTokensRequest": _object(
        {
            "model": _STRING,
            "messages": {"type": "array", "items": _OBJECT},
            "system": _STRING,
            "tools": {"type": "array", "items": _OBJECT},
        },
        ["model", "messages"],
    ),
    "TokenizeRequest": _object(
        {"model": _STRING, "prompt": _STRING, "messages": {"type": "array", "items": _OBJECT}},
        example={"prompt": "Hello"},
    ),
    "DetokenizeRequest": _object({"model": _STRING, "tokens": {"type": "array", "items": _INTEGER}}, ["tokens"]),
    "EmbeddingRequest": _object(
        {"model": _STRING, "input": _KINDS[Kind.PROMPT], "dimensions": _INTEGER}, example={"input": "Hello"}
    ),
    "CohereEmbedRequest": _object(
        {"model": _STRING, "texts": _KINDS[Kind.TEXTS]}, ["texts"], example={"texts": ["Hello"]}
    ),
    "ScoreRequest": _object(
        {"model": _STRING, "text_1": _ONE_OR_MORE, "text_2": _ONE_OR_MORE},
        ["text_1", "text_2"],
        example={"text_1": "Hello", "text_2": ["Hello", "Goodbye"]},
    ),
    "RerankRequest": _object(
        {"model": _STRING, "query": _STRING, "documents": _KINDS[Kind.TEXTS], "top_n": _INTEGER},
        ["query", "documents"],
        example={"query": "Hello", "documents": ["Hello", "Goodbye"]},
    ),
    "LoadLoRAAdapterRequest": _object({"lora_name": _STRING, "lora_path": _STRING}, ["lora_name", "lora_path"]),
    "AddAdapterRequest": _object({"name": _STRING, "src": _STRING}, ["name", "src"]),
    "UnloadLoRAAdapterRequest": _object({"lora_name": _STRING}, ["lora_name"]),
    "AbortRequest": _object({"request_ids": {"type": "array", "items": _STRING}}, example={}),
    "ErrorResponse": _ERROR,
}
_BODIES: Final = {
    "/v1/chat/completions": ("ChatCompletionRequest", "ChatCompletionResponse"),
    "/v1/completions": ("CompletionRequest", "CompletionResponse"),
    "/v1/responses": ("ResponsesRequest", None),
    "/v1/messages": ("AnthropicMessagesRequest", None),
    "/v1/messages/count_tokens": ("AnthropicCountTokensRequest", None),
    "/tokenize": ("TokenizeRequest", None),
    "/detokenize": ("DetokenizeRequest", None),
    "/v1/embeddings": ("EmbeddingRequest", None),
    "/pooling": ("EmbeddingRequest", None),
    "/classify": ("EmbeddingRequest", None),
    "/v2/embed": ("CohereEmbedRequest", None),
    **dict.fromkeys(("/score", "/v1/score"), ("ScoreRequest", None)),
    **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), ("RerankRequest", None)),
    "/adapters": ("AddAdapterRequest", None),
    "/v1/load_lora_adapter": ("LoadLoRAAdapterRequest", None),
    "/v1/unload_lora_adapter": ("UnloadLoRAAdapterRequest", None),
    "/abort_requests": ("AbortRequest", None),
    "/inference/v1/abort_requests": ("AbortRequest", None),
}


def operation(path: str) -> Schema:
    """The bodies of one route's request and answers; of others than the main ones nothing is known."""
    if path not in _BODIES:
        return {"responses": {"200": {"description": "Successful Response"}}}
    asked, answered = _BODIES[path]
    success: Schema = {"description": "Successful Response", "content": {"application/json": {"schema": {}}}}
    if answered is not None:
        success["content"] = {"application/json": {"schema": _reference(answered)}}
    failure = {"description": "Bad Request", "content": {"application/json": {"schema": _reference("ErrorResponse")}}}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": _reference(asked)}}},
        "responses": {"200": success, "400": failure},
    }


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
