"""What the journal says of one request, as text or as JSON. Pure.

What clients choose (path, model) is cut to `LONGEST` characters and quoted unless it is harmless, so that nobody can
forge a line or a field, or send a terminal commands. The query is left out: clients of other APIs put keys there.

Most of a line is the same as in many lines before, so that part of it is remembered.
"""

import functools
import json
import re
from typing import Any, Final

import msgspec

from dp_vllm.log_format import time_of
from dp_vllm_gateway.call import Call

LONGEST: Final = 100
"""Characters of a value; so a line fits into one write to a pipe."""

_HARMLESS: Final = re.compile(r"[A-Za-z0-9_./:@+-]+")


def text(call: Call, now: int) -> bytes:
    """The line for people. `now` is the wall clock, in milliseconds. What there is none of is `-`."""
    began = call.began_at
    first = f"{call.answered_at - began:.3f}" if call.answered_at else "-"
    return (
        f"{time_of(now)} {_text_of(_kept(call))} id={call.id} prompt={call.prompt_tokens or '-'}"
        f" completion={call.completion_tokens or '-'} first={first} total={call.ended_at - began:.3f}\n"
    ).encode()


def as_json(call: Call, now: int) -> bytes:
    """The line for machines; durations in seconds. What there is none of is null or empty."""
    began = call.began_at
    first = f"{call.answered_at - began:.3f}" if call.answered_at else "null"
    prompt, completion = call.prompt_tokens or "null", call.completion_tokens or "null"
    return (
        f'{{"time":"{time_of(now)}",{_json_of(_kept(call))},"id":"{call.id}","prompt_tokens":{prompt},'
        f'"completion_tokens":{completion},"first_token_seconds":{first},'
        f'"total_seconds":{call.ended_at - began:.3f}}}\n'
    ).encode()


_Kept = tuple[int, str, str, str, str, str, int, str]


def _kept(call: Call) -> _Kept:
    """What repeats. Cut here already: what is remembered must be small."""
    path, model, reason = call.path[:LONGEST], call.model[:LONGEST], call.reason[:LONGEST]
    return call.status, call.method, path, call.key, model, call.replica, call.attempts, reason


@functools.lru_cache(maxsize=1024)
def _text_of(kept: _Kept) -> str:
    status, method, path, key, model, replica, attempts, reason = kept
    return (
        f"{status} {method} {_word(path.partition('?')[0])} key={_word(key)} model={_word(model)}"
        f" replica={_word(replica)} attempts={attempts} reason={_word(reason)}"
    )


@functools.lru_cache(maxsize=1024)
def _json_of(kept: _Kept) -> str:
    status, method, path, key, model, replica, attempts, reason = kept
    line: dict[str, Any] = {
        "status": status,
        "method": method,
        "path": path.partition("?")[0],
        "key": key,
        "model": model,
        "replica": replica,
        "attempts": attempts,
        "reason": reason,
    }
    printable = {name: _printable(value) if isinstance(value, str) else value for name, value in line.items()}
    return msgspec.json.encode(printable)[1:-1].decode()


def _word(value: str) -> str:
    """The value as one word that cannot be taken for another field."""
    if not value:
        return "-"
    return value if _HARMLESS.fullmatch(value) else json.dumps(value, ensure_ascii=not value.isprintable())


def _printable(value: str) -> str:
    """The value without anything that a terminal takes for a command, or that is no UTF-8."""
    return value if value.isprintable() else value.encode("unicode_escape").decode()
