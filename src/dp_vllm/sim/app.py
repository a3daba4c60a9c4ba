"""What the handlers of one simulated engine share."""

from __future__ import annotations

import asyncio
import uuid
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from aiohttp import web

from dp_vllm import __version__
from dp_vllm.sim import errors, kv, sampling, tokens
from dp_vllm.sim.breakage import BrokenWire
from dp_vllm.sim.engine import Engine
from dp_vllm.sim.faults import Faults
from dp_vllm.sim.metrics import Metrics
from dp_vllm.sim.options import Options
from dp_vllm.sim.reply import Fixed, Reply, seed_of
from dp_vllm.sim.requests import Generate
from dp_vllm.sim.sequence import Sequence, Sink
from dp_vllm.sim.steps import Steps
from dp_vllm.sim.wire import Wire

VLLM_VERSION: Final = "0.32.0"
"""The release whose behaviour is imitated."""
FINGERPRINT: Final = f"simulated-dp-vllm-{__version__}"
_KEPT_RESPONSES: Final = 1000


@dataclass(frozen=True, slots=True)
class Kept:
    """A response and the conversation up to it."""

    answer: dict[str, Any]
    messages: list[dict[str, Any]]


@dataclass(slots=True)
class App:
    """One engine with its settings. `adapters` is changed by the LoRA routes alone, `load` by the server."""

    options: Options
    engine: Engine
    steps: Steps
    adapters: dict[str, str]
    metrics: Metrics
    group: asyncio.TaskGroup
    load: int = 0
    """HTTP requests under way on routes that vLLM counts in `/load`."""
    draining: bool = False
    dead: bool = False
    asleep: bool = False
    paused: bool = False
    responses: dict[str, Kept] = field(default_factory=dict)
    """Responses that can be asked for again, by id; the newest thousand."""
    background: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """Responses that no client waits for, by id."""
    route_list: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of every route there is."""
    faults: Faults = field(default_factory=Faults)

    @property
    def models(self) -> list[str]:
        """Every name that a request may ask for."""
        return [*self.options.names, *self.adapters]

    def model(self, name: str | None) -> str:
        """The name an answer carries. Raises Refusal for an unknown one; without a name it is the first."""
        if not name:
            return self.options.names[0]
        if name not in self.options.names and name not in self.adapters:
            raise errors.no_such_model(name, self.models)
        return name

    def sequence(
        self,
        request: web.BaseRequest,
        prompt: array[int],
        reply: Reply,
        sink: Sink,
        model: str,
        request_id: str,
        salt: str | None = None,
    ) -> Sequence:
        """Work for the engine. Adapters and salts share no prefixes."""
        fault = request.get("fault")
        if fault is not None and fault.kind == "abort":
            reply.end_after(fault.after, "abort")
        adapter = model if model in self.adapters else ""
        limits, root = self.engine.limits, kv.root(adapter, salt or "")
        hashes = kv.chain(prompt, limits.block_size, root) if limits.prefix_caching else []
        return Sequence(prompt, reply, sink, hashes, root, adapter, request_id)

    def keep(self, answer: dict[str, Any], messages: list[dict[str, Any]]) -> None:
        """Keep a response, in place of the oldest if there are too many."""
        self.responses[answer["id"]] = Kept(answer, messages)
        while len(self.responses) > _KEPT_RESPONSES:
            del self.responses[next(iter(self.responses))]

    def reply(
        self,
        body: Generate,
        prompt: array[int],
        index: int,
        limit: int | None,
        model: str,
        fixed: Callable[[int], Fixed | None] | None = None,
    ) -> Reply:
        """What choice number `index` will say: as long as `limit`, else as the model likes.

        What is `fixed` by a constraint is as long as that is. Raises Refusal for a constraint that is not simulated.
        """
        room = self.engine.limits.max_model_len - len(prompt)
        seed = seed_of(prompt, self.options.seed if body.seed is None else body.seed, index)
        constrained = None if fixed is None else fixed(seed)
        free = room if constrained is not None else self.options.reply_tokens
        wanted = free if limit is None else limit
        finish = "stop" if limit is None and wanted <= room and constrained is None else "length"
        reply = Reply(model, seed, min(wanted, room), finish, constrained)
        stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
        if stops or body.stop_token_ids:
            ids = body.stop_token_ids or []
            reply.stop_at(stops, ids, include=body.include_stop_str_in_output, at_least=body.min_tokens)
        return reply

    def json(self, value: object, status: int = 200) -> web.Response:
        """An answer in JSON."""
        return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")

    def wire(self, request: web.BaseRequest) -> Wire:
        """A stream to this request's client."""
        fault = request.get("fault")
        return Wire(request) if fault is None or fault.kind == "abort" else BrokenWire(request, fault)

    @property
    def bounds(self) -> sampling.Bounds:
        """What numbers of requests are held against."""
        most = self.options.max_logprobs
        most = tokens.VOCABULARY_SIZE if most == -1 else most
        longest, reasoning = self.engine.limits.max_model_len, self.options.features.reasoning
        return sampling.Bounds(longest, most, tokens.VOCABULARY_SIZE, reasoning)

    def admit(
        self, body: Generate, prompts: list[array[int]], limit: int | None, name: str = "max_tokens"
    ) -> list[array[int]]:
        """The prompts, cut if the request says so. Raises Refusal if a length or number is out of bounds.

        `limit` is the number of tokens requested, in the field `name`.
        """
        bounds = self.bounds
        sampling.check_length(name, limit, bounds)
        sampling.check_truncation(body, bounds)
        cut = [sampling.truncated(prompt, body.truncate_prompt_tokens, limit, bounds) for prompt in prompts]
        self.check_room(cut, exact=not isinstance(getattr(body, "prompt", ""), str))
        for prompt in cut:
            room = bounds.longest - len(prompt)
            sampling.check(body, room if limit is None else min(limit, room), len(prompts), bounds)
        return cut

    def check_room(self, prompts: list[array[int]], *, exact: bool = False) -> None:
        """Raises Refusal if a prompt is empty or longer than the model allows; `exact` says by how much."""
        longest = self.engine.limits.max_model_len
        for prompt in prompts:
            if not prompt:
                raise errors.bad_request("The decoder prompt cannot be empty")
            if len(prompt) > longest:
                raise too_long(longest, len(prompt) if exact else longest + 1)


def too_long(longest: int, length: int) -> errors.Refusal:
    """A prompt that is longer than the model allows. Of text vLLM counts no token behind the first superfluous one."""
    count = f"at least {length}" if length == longest + 1 else str(length)
    message = (
        f"This model's maximum context length is {longest} tokens. However, your prompt contains {count} input tokens,"
        " which exceeds this limit even without any output tokens. Please reduce the length of the input prompt."
    )
    return errors.bad_value(message, "input_tokens", length)


def silent_reply(model: str) -> Reply:
    """For work that generates nothing: embeddings, scores."""
    return Reply(model, 0, 0, "stop")


def request_id(request: web.BaseRequest, given: str | None = None) -> str:
    """The id of an answer: the header's, the body's, or a new one."""
    return request.headers.get("X-Request-Id") or given or uuid.uuid4().hex
