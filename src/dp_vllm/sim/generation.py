"""What chat and completions share: prompts x choices through the engine, streamed or whole."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web

from dp_vllm.sim import errors
from dp_vllm.sim.app import App
from dp_vllm.sim.breakage import cut
from dp_vllm.sim.reply import Fixed
from dp_vllm.sim.requests import Generate, StreamOptions
from dp_vllm.sim.sequence import Sequence
from dp_vllm.sim.stream import Frames, TokenStream, stream_out
from dp_vllm.sim.usage import usage
from dp_vllm.sim.work import Whole, Work, all_ended

_DONE: Final = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Ask:
    """One parsed request."""

    id: str
    created: int
    model: str
    body: Generate
    prompts: list[array[int]]
    request_ids: list[str]
    """Of each prompt, what `/abort_requests` calls it."""
    limit: int | None
    fixed: Callable[[int], Fixed | None] | None
    """What a constraint makes of an answer, by its seed."""
    logprobs: int | None
    """How many alternatives are asked for; None: no probabilities at all."""

    @property
    def choices(self) -> int:
        return self.body.n or 1

    @property
    def stream_options(self) -> StreamOptions:
        return self.body.stream_options or StreamOptions()

    def head(self, kind: str) -> dict[str, Any]:
        """What every event begins with."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
        }

    def event(self, data: dict[str, Any], sequence: Sequence, generated: int) -> bytes:
        """One event, with the counts so far if they were asked for on each."""
        if self.stream_options.continuous_usage_stats and self.stream_options.include_usage:
            prompt = len(sequence.prompt)
            counts = {"prompt_tokens": prompt, "total_tokens": prompt + generated, "completion_tokens": generated}
            data = data | {"usage": counts}
        return b"data: %b\n\n" % msgspec.json.encode(data)


class Frame:
    """Base of the events of one choice."""

    __slots__ = ("_ask", "_index", "_plain")

    def __init__(self, ask: Ask, index: int) -> None:
        self._ask = ask
        self._index = index
        options = ask.stream_options
        self._plain = ask.logprobs is None and not ask.body.return_token_ids and not options.continuous_usage_stats


async def generate(
    app: App,
    request: web.BaseRequest,
    ask: Ask,
    frame: Callable[[Ask, int], Frames],
    whole: Callable[[Ask, list[Sequence], dict[str, Any]], dict[str, Any]],
) -> web.StreamResponse:
    """Run the request and answer it."""
    prompts = zip(ask.prompts, ask.request_ids, strict=True)
    plan = [(prompt, identity, choice) for prompt, identity in prompts for choice in range(ask.choices)]

    def sequence(place: int, sink: Whole) -> Sequence:
        prompt, identity, choice = plan[place]
        reply = app.reply(ask.body, prompt, choice, ask.limit, ask.model, ask.fixed)
        return app.sequence(request, prompt, reply, sink, ask.model, identity, ask.body.cache_salt)

    if not ask.body.stream:
        sinks = [Whole() for _ in plan]
        sequences = [sequence(place, sink) for place, sink in enumerate(sinks)]
        with Work(app.steps, sequences):
            await all_ended(sinks)
        raise_if_dead(sequences)
        return app.json(whole(ask, sequences, _usage(app, ask, sequences)))
    wire = app.wire(request)
    streams = [TokenStream(wire, frame(ask, place)) for place in range(len(plan))]
    sequences = [sequence(place, stream) for place, stream in enumerate(streams)]
    with Work(app.steps, sequences):
        await wire.open(app.options.api.sse_keep_alive_seconds)
        await stream_out(wire, list(zip(sequences, streams, strict=True)))
    dead = any(sequence.finish == "error" for sequence in sequences)
    if dead:
        wire.send(b"data: %b\n\n" % errors.dead().body)
    elif ask.stream_options.include_usage or app.options.api.force_include_usage:
        wire.send(_last(app, ask, sequences))
    wire.send(_DONE)
    return await wire.close()


class OneFrames(Frames, Protocol):
    """Events of a dialect that has one prompt and one choice."""

    def start(self) -> bytes:
        """At once, before the engine did anything."""

    def done(self, sequence: Sequence) -> bytes:
        """The end of the stream."""

    def failure(self) -> bytes:
        """The end of the stream if the engine died; empty if the connection is cut instead."""


async def answer_one(
    app: App,
    request: web.BaseRequest,
    prompt: array[int],
    wanted: Generate,
    model: str,
    identity: str,
    frames: OneFrames | None,
    whole: Callable[[Sequence], dict[str, Any]],
    limit_name: str = "max_tokens",
    fixed: Callable[[int], Fixed | None] | None = None,
) -> web.StreamResponse:
    """Run one prompt and answer it: with these events, or whole if there are none. `identity` is its request's id."""
    [prompt] = app.admit(wanted, [prompt], wanted.max_tokens, limit_name)
    reply = app.reply(wanted, prompt, 0, wanted.max_tokens, model, fixed)
    if frames is None:
        sink = Whole()
        sequence = app.sequence(request, prompt, reply, sink, model, identity)
        with Work(app.steps, [sequence]):
            await sink.ended
        raise_if_dead([sequence])
        return app.json(whole(sequence))
    wire = app.wire(request)
    stream = TokenStream(wire, frames)
    sequence = app.sequence(request, prompt, reply, stream, model, identity)
    with Work(app.steps, [sequence]):
        await wire.open(app.options.api.sse_keep_alive_seconds)
        if first := frames.start():
            wire.send(first)
        await stream_out(wire, [(sequence, stream)])
    if sequence.finish != "error":
        wire.send(frames.done(sequence))
    elif last := frames.failure():
        wire.send(last)
    else:
        return cut(request)
    return await wire.close()


def raise_if_dead(sequences: list[Sequence]) -> None:
    """Raises Refusal if the engine died under them."""
    if any(sequence.finish == "error" for sequence in sequences):
        raise errors.dead()


def logprobs_of(sequence: Sequence, start: int, end: int) -> list[tuple[str, float]]:
    """Each token's text and its probability's logarithm: nothing was sampled, so each was certain."""
    return [(sequence.reply.text(index, index + 1), 0.0) for index in range(start, end)]


def _usage(app: App, ask: Ask, sequences: list[Sequence]) -> dict[str, Any]:
    return usage(sequences, details=app.options.api.prompt_tokens_details, choices=ask.choices)


def _last(app: App, ask: Ask, sequences: list[Sequence]) -> bytes:
    """The event that has the counts and no choices."""
    kind = "chat.completion.chunk" if ask.id.startswith("chatcmpl-") else "text_completion"
    data = ask.head(kind) | {"choices": [], "usage": _usage(app, ask, sequences)}
    return b"data: %b\n\n" % msgspec.json.encode(data)
