"""`/tokenize`, `/detokenize`, `/tokenizer_info`."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from dp_vllm.sim import template, tokens
from dp_vllm.sim.app import App
from dp_vllm.sim.errors import bad_request
from dp_vllm.sim.requests import convert


class Tokenize(msgspec.Struct, kw_only=True):
    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool | None = False


class Detokenize(msgspec.Struct, kw_only=True):
    model: str | None = None
    tokens: list[int]


async def tokenize(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    """Ids of a prompt, or of messages in the chat template."""
    body = convert(value, Tokenize)
    app.model(body.model)
    if body.messages is not None:
        text = template.render(body.messages, body.tools, answer=body.add_generation_prompt)
    elif body.prompt is not None:
        text = body.prompt
    else:
        raise bad_request("Either prompt or messages is required.", "prompt")
    ids = tokens.encode(text)
    strings = [tokens.decode([token]) for token in ids] if body.return_token_strs else None
    longest = app.engine.limits.max_model_len
    return app.json({"count": len(ids), "max_model_len": longest, "tokens": list(ids), "token_strs": strings})


async def detokenize(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    """The text of ids."""
    body = convert(value, Detokenize)
    app.model(body.model)
    try:
        text = tokens.decode(body.tokens)
    except ValueError as error:
        raise bad_request(str(error), "tokens") from error
    return app.json({"prompt": text})


async def tokenizer_info(app: App, request: web.BaseRequest) -> web.StreamResponse:
    """What the tokenizer is."""
    return app.json({"tokenizer_class": "SimulatedTokenizer", "vocab_size": tokens.VOCABULARY_SIZE})
