"""Text in, numbers out: embeddings, scores, ranks, classes. The numbers follow from the text alone and mean nothing."""

from __future__ import annotations

import base64
import math
import time
from array import array
from typing import Any, cast

import msgspec
import xxhash
from aiohttp import web

from dp_vllm.sim import tokens
from dp_vllm.sim.app import App, request_id, silent_reply
from dp_vllm.sim.completions import read_prompts
from dp_vllm.sim.errors import bad_request
from dp_vllm.sim.generation import raise_if_dead
from dp_vllm.sim.requests import convert
from dp_vllm.sim.template import render
from dp_vllm.sim.work import Whole, Work, all_ended

_LABELS = ("LABEL_0", "LABEL_1")


class Embed(msgspec.Struct, kw_only=True):
    model: str | None = None
    input: str | list[Any] | None = None
    messages: list[dict[str, Any]] | None = None
    dimensions: int | None = None
    encoding_format: str = "float"


class Pairs(msgspec.Struct, kw_only=True):
    """Of `/score` and `/rerank`, in the spellings of vLLM, Jina and Cohere."""

    model: str | None = None
    text_1: str | list[str] | None = None
    text_2: str | list[str] | None = None
    queries: str | list[str] | None = None
    query: str | None = None
    documents: str | list[Any] | None = None
    top_n: int | None = None


class CohereEmbed(msgspec.Struct, kw_only=True):
    model: str | None = None
    texts: list[str]


async def embeddings(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    """`/v1/embeddings`: one unit vector a prompt."""
    body = convert(value, Embed)
    model, prompts = app.model(body.model), _prompts(body)
    size = body.dimensions or app.options.embedding_size
    counts = await _compute(app, request, prompts, model)
    data = [
        {"index": index, "object": "embedding", "embedding": _encoded(_vector(prompt, size), body.encoding_format)}
        for index, prompt in enumerate(prompts)
    ]
    return app.json(_list("embd-", request, model, data, counts))


async def pooling(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    """`/pooling`: the same vectors, under the name `data`."""
    body = convert(value, Embed)
    model, prompts = app.model(body.model), _prompts(body)
    counts = await _compute(app, request, prompts, model)
    data = [
        {"index": index, "object": "pooling", "data": _vector(prompt, app.options.embedding_size)}
        for index, prompt in enumerate(prompts)
    ]
    return app.json(_list("pool-", request, model, data, counts))


async def cohere_embed(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    """`/v2/embed`, in Cohere's words."""
    body = convert(value, CohereEmbed)
    model, prompts = app.model(body.model), read_prompts(body.texts)
    counts = await _compute(app, request, prompts, model)
    vectors = [_vector(prompt, app.options.embedding_size) for prompt in prompts]
    billed = {"input_tokens": counts["prompt_tokens"]}
    meta = {"api_version": {"version": "2"}, "billed_units": billed}
    answer = {"id": "embd-" + request_id(request), "embeddings": {"float": vectors}, "texts": body.texts, "meta": meta}
    return app.json(answer)


async def classify(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    """`/classify`: two classes."""
    body = convert(value, Embed)
    model, prompts = app.model(body.model), _prompts(body)
    counts = await _compute(app, request, prompts, model)
    data = []
    for index, prompt in enumerate(prompts):
        first = _share(prompt)
        probs = [first, 1.0 - first]
        label = _LABELS[probs.index(max(probs))]
        data.append({"index": index, "label": label, "probs": probs, "num_classes": len(probs)})
    return app.json(_list("classify-", request, model, data, counts))


async def score(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    """`/score`: one text against many, or pair by pair."""
    body = convert(value, Pairs)
    model = app.model(body.model)
    left, right = _texts(body.text_1 or body.queries, "text_1"), _texts(body.text_2 or body.documents, "text_2")
    if len(left) not in (1, len(right)):
        raise bad_request("Input lengths must be either 1:1, 1:N or N:N", "text_1")
    pairs = [_pair(one, other) for one, other in zip(left * len(right) if len(left) == 1 else left, right, strict=True)]
    counts = await _compute(app, request, pairs, model)
    data = [{"index": index, "object": "score", "score": _share(pair)} for index, pair in enumerate(pairs)]
    return app.json(_list("score-", request, model, data, counts))


async def rerank(app: App, request: web.BaseRequest, value: dict[str, Any]) -> web.StreamResponse:
    """`/rerank`: documents, the best first."""
    body = convert(value, Pairs)
    model, documents = app.model(body.model), _texts(body.documents, "documents")
    if body.query is None:
        raise bad_request("query is required.", "query")
    pairs = [_pair(body.query, document) for document in documents]
    counts = await _compute(app, request, pairs, model)
    results = [
        {"index": index, "document": {"text": text, "multi_modal": None}, "relevance_score": _share(pair)}
        for index, (text, pair) in enumerate(zip(documents, pairs, strict=True))
    ]
    results.sort(key=lambda result: -cast(float, result["relevance_score"]))
    usage = {"prompt_tokens": counts["prompt_tokens"], "total_tokens": counts["total_tokens"]}
    best = results[: body.top_n] if body.top_n else results
    return app.json({"id": "rerank-" + request_id(request), "model": model, "usage": usage, "results": best})


async def _compute(app: App, request: web.BaseRequest, prompts: list[array[int]], model: str) -> dict[str, Any]:
    """Take the engine's time for these prompts; the counts."""
    app.check_room(prompts)
    sinks = [Whole() for _ in prompts]
    sequences = [
        app.sequence(request, prompt, silent_reply(model), sink, model, "")
        for prompt, sink in zip(prompts, sinks, strict=True)
    ]
    with Work(app.steps, sequences):
        await all_ended(sinks)
    raise_if_dead(sequences)
    count = sum(map(len, prompts))
    return {"prompt_tokens": count, "total_tokens": count, "completion_tokens": 0, "prompt_tokens_details": None}


def _list(
    prefix: str, request: web.BaseRequest, model: str, data: list[dict[str, Any]], counts: dict[str, Any]
) -> dict[str, Any]:
    return {
        "id": prefix + request_id(request),
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": data,
        "usage": counts,
    }


def _prompts(body: Embed) -> list[array[int]]:
    if body.messages is not None:
        return [tokens.encode(render(body.messages, answer=False))]
    return read_prompts(body.input)


def _texts(value: str | list[Any] | None, name: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not texts or not all(isinstance(text, str) for text in texts):
        raise bad_request(f"{name} must be a text or a list of texts.", name)
    return texts


def _pair(one: str, other: str) -> array[int]:
    return tokens.encode(f"{one}\n{other}")


def _share(prompt: array[int]) -> float:
    """A number from 0 to 1."""
    return xxhash.xxh3_64_intdigest(prompt.tobytes()) / 2**64


def _vector(prompt: array[int], size: int) -> list[float]:
    data = prompt.tobytes()
    raw = [xxhash.xxh3_64_intdigest(data, place) / 2**63 - 1.0 for place in range(size)]
    length = math.sqrt(sum(number * number for number in raw)) or 1.0
    return [number / length for number in raw]


def _encoded(vector: list[float], form: str) -> list[float] | str:
    if form == "base64":
        return base64.b64encode(array("f", vector).tobytes()).decode()
    return vector
