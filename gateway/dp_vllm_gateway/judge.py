"""Whether a whole answer is one for the client, or an engine's way to say that it failed. Pure."""

from typing import Final

import msgspec

from dp_vllm.engine import answers
from dp_vllm.engine.routes import Dialect
from dp_vllm_gateway.retry import Failure


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []
    status: str | None = None
    stop_reason: str | None = None
    type: str = ""


_ANSWER: Final = msgspec.json.Decoder(_Answer)

_ABORT_TOKENS: Final = {
    Dialect.COMPLETIONS: b'"abort"',
    Dialect.RESPONSES: b'"cancelled"',
    Dialect.MESSAGES: b'"message"',  # in every one: an aborted message lacks its `stop_reason`
}
"""Without its token an answer is not an aborted one. (vLLM's `/v1/responses` says "completed" of an aborted answer.)"""


def failure_of(status: int, body: bytes, dialect: Dialect) -> Failure | None:
    """Which failure of the engine an answer stands for; None if it is the client's to read, errors included."""
    if status == 200:
        return Failure.ABORTED if _aborted(body, dialect) else None
    if answers.is_busy(status):
        return Failure.BUSY
    if status != 500:
        return None
    if answers.is_draining(status, body):
        return Failure.DRAINING
    return Failure.ENGINE_DEAD if answers.is_dead(body) else None


def _aborted(body: bytes, dialect: Dialect) -> bool:
    token = _ABORT_TOKENS.get(dialect)
    if token is None or token not in body:
        return False
    try:
        answer = _ANSWER.decode(body)
    except (ValueError, RecursionError):
        return False
    match dialect:
        case Dialect.COMPLETIONS:
            return any(choice.finish_reason == "abort" for choice in answer.choices)
        case Dialect.RESPONSES:
            return answer.status == "cancelled"
        case _:
            return answer.type == "message" and answer.stop_reason is None


def is_json(body: bytes) -> bool:
    """Whether a body whose end nobody announced is a whole JSON value."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (ValueError, RecursionError):
        return False
    return True
