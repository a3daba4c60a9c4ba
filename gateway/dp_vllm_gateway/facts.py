"""What routing may know of a request: a few fields of its body, read without ever refusing what an engine would take.

A field of the wrong type is simply not known. Only a body that no JSON reader takes is an error.
"""

import json
from typing import Any, Final

import msgspec
import xxhash

from dp_vllm.policy import Policy
from dp_vllm_gateway import bounds
from dp_vllm_gateway.multipart import TRUE
from dp_vllm_gateway.routing.blocks import BLOCK_BYTES, blocks_of
from dp_vllm_gateway.routing.prompt import Prompt, PromptFields, prompt_of, tokens_of


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What one request is, as far as choosing a replica for it goes."""

    model: str | None = None
    stream: bool = False
    sequences: int = 1
    """How many sequences the engine will run at once: `n` times the prompts, clamped (`bounds`)."""
    tokens: int = 0
    """The prompt's length, estimated."""
    previous_response: str | None = None
    """The id of a response that only the replica which made it knows."""
    blocks: list[int] = []
    """The prompt's full blocks (`routing.blocks`), if the policy compares prompts."""
    block_tokens: float = 0.0
    """How many of the tokens are in one block."""
    priority: int = 0
    """Lower goes first, as in vLLM."""
    affinity: int = 0
    """Requests that have the same number want the same replica, if the policy says so; 0: none is wanted."""


class BadJson(ValueError):
    """The body is no JSON; the message says where it stops being one."""


class _Short(msgspec.Struct):
    """What is read where nothing is to be compared with other prompts."""

    model: str | None = None
    stream: bool | None = None
    n: int | None = None
    previous_response_id: str | None = None
    priority: int | None = None
    prompt_cache_key: str | None = None
    user: str | None = None
    prompt: msgspec.Raw = msgspec.Raw()


class _Body(PromptFields):
    model: str | None = None
    stream: bool | None = None
    n: int | None = None
    previous_response_id: str | None = None
    priority: int | None = None
    prompt_cache_key: str | None = None
    user: str | None = None


class _Untyped(PromptFields):
    model: Any = None
    stream: Any = None
    n: Any = None
    previous_response_id: Any = None
    priority: Any = None
    prompt_cache_key: Any = None
    user: Any = None

    def typed(self) -> _Body:
        """What has the right type; the rest is not known."""
        given = {name: getattr(self, name) for name in self.__struct_fields__}
        given |= {name: bounds.integer_of(given[name], most) for name, most in _INTEGERS.items()}
        given["stream"] = _says_yes(given["stream"])
        kinds = {"stream": bool, **dict.fromkeys(_INTEGERS, int)}
        read = {name: value for name, value in given.items() if not isinstance(value, msgspec.Raw)}
        wrong = [name for name, value in read.items() if not isinstance(value, kinds.get(name, str))]
        return _Body(**given | dict.fromkeys(wrong))


def _says_yes(value: Any) -> bool:
    """Whether engines take a value for true."""
    return value == 1 or (isinstance(value, str) and value.lower() in TRUE)


_INTEGERS: Final = {"n": bounds.MOST_SEQUENCES, "priority": bounds.MOST_PRIORITY}
"""The fields that are integers, and the most that each is taken for."""


_UNREADABLE: Final = (ValueError, RecursionError)
"""What reading raises. msgspec's own errors are ValueErrors, and so is that of bad UTF-8, which is none of its own."""

_SHORT: Final = msgspec.json.Decoder(_Short)
_BODY: Final = msgspec.json.Decoder(_Body)
_UNTYPED: Final = msgspec.json.Decoder(_Untyped)


def facts_of(body: bytes, policy: Policy = Policy.LEAST_LOAD, session: bytes | None = None) -> Facts:
    """Read a JSON body as far as this policy needs it. `session` is what the client's headers call its session.

    Raises BadJson if neither msgspec nor the standard library's more lenient reader takes it.
    """
    if len(body) < BLOCK_BYTES or policy not in _COMPARING:
        try:
            short = _SHORT.decode(body)
        except _UNREADABLE:
            pass  # more patiently below
        else:
            if policy is not Policy.CONSISTENT_HASH and bytes(memoryview(short.prompt)[:1]) != b"[":
                return _facts(short, Prompt(b"", b"", tokens_of(body)), affinity=_session(short, policy, session))
    fields = _fields(body)
    prompt = prompt_of(fields, fields.model, body)
    if policy is Policy.PREFIX:
        return _facts(fields, prompt, blocks=blocks_of(prompt.text, prompt.seed))
    affinity = _beginning(prompt) if policy is Policy.CONSISTENT_HASH else _session(fields, policy, session)
    return _facts(fields, prompt, affinity=affinity)


_COMPARING: Final = (Policy.PREFIX, Policy.CONSISTENT_HASH)
"""Policies that compare prompts."""


def _facts(fields: _Short | _Body, prompt: Prompt, *, blocks: list[int] | None = None, affinity: int = 0) -> Facts:
    return Facts(
        fields.model,
        bool(fields.stream),
        1 if fields.n is None and prompt.count == 1 else bounds.sequences_of(fields.n, prompt.count),
        prompt.tokens + prompt.beside,
        fields.previous_response_id,
        blocks or [],
        prompt.tokens * BLOCK_BYTES / len(prompt.text) if blocks else 0.0,
        bounds.priority_of(fields.priority) if fields.priority else 0,
        affinity,
    )


def _beginning(prompt: Prompt) -> int:
    """Of what a prompt's first block tells, or all of a shorter one."""
    return xxhash.xxh3_64_intdigest(prompt.text[:BLOCK_BYTES] + prompt.seed) or 1


def _session(fields: _Short | _Body, policy: Policy, session: bytes | None) -> int:
    if policy is not Policy.SESSION:
        return 0
    named = session or (fields.prompt_cache_key or fields.user or "").encode("utf-8", "replace")
    return (xxhash.xxh3_64_intdigest(named) or 1) if named else 0


def _fields(body: bytes) -> _Body:
    try:
        return _BODY.decode(body)
    except msgspec.ValidationError:
        pass
    except _UNREADABLE:
        return _lenient(body).typed()
    try:
        return _UNTYPED.decode(body).typed()
    except _UNREADABLE:
        return _lenient(body).typed()


def _lenient(body: bytes) -> _Untyped:
    """What msgspec refuses and FastAPI accepts: NaN, lone surrogates, a BOM, UTF-16. Integers may have any length."""
    try:
        value = json.loads(body, parse_int=bounds.parsed_integer)
    except _UNREADABLE as error:
        raise BadJson(str(error)) from error
    if not isinstance(value, dict):
        return _Untyped()
    found = _Untyped()
    for name in ("model", "stream", "n", "previous_response_id", "priority", "prompt_cache_key", "user"):
        setattr(found, name, value.get(name))
    return found
