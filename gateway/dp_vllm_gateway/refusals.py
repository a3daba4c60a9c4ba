"""What a client is told when no replica answered it. Pure: a situation in, a refusal out."""

from collections.abc import Sequence
from typing import Final

from dp_vllm.endpoints import State
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.member import Member
from dp_vllm_gateway.outcome import Failed
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.replies import Refusal, unavailable
from dp_vllm_gateway.retry import Failure

_AFTER: Final[dict[Failure, tuple[int, str]]] = {
    Failure.CONNECT: (503, "upstream_connect_error"),
    Failure.DRAINING: (503, "upstream_draining"),
    Failure.BUSY: (429, "upstream_busy"),
    Failure.DIED: (502, "upstream_reset"),
    Failure.ENGINE_DEAD: (502, "upstream_reset"),
    Failure.ABORTED: (502, "upstream_aborted"),
    Failure.GARBAGE: (502, "upstream_garbage"),
    Failure.TIMEOUT: (504, "upstream_timeout"),
    Failure.STOPPED: (503, "shutting_down"),
}

TOLD_MOST: Final = 8
"""Of so many replicas a refusal tells how they are."""

LONGEST: Final = 200
"""Characters of a model's name that a refusal repeats: the client chooses it."""

NO_RETRY: Final = {"x-should-retry": "false"}
"""OpenAI's client repeats every 5xx by itself; this stops it where a repeat does harm."""


def for_failure(failed: Failed, replica: str) -> Refusal:
    """The last attempt failed, and there will be no other."""
    status, code = _AFTER[failed.failure]
    detail = f" ({failed.detail})" if failed.detail else ""
    message = f"replica {replica} {failed.failure.value}{detail}"
    if status in (429, 503):
        return unavailable(status, message, retry_after_seconds=1, code=code)
    return Refusal(status, message, code=code, headers=NO_RETRY if status == 504 else None)


def poison() -> Refusal:
    """The request was in flight at several engine deaths."""
    message = "replicas died while they worked on this request, so it is not sent again for ten minutes"
    return Refusal(500, message, code="request_ends_replicas", headers=NO_RETRY)


def model_missing(models: Sequence[str]) -> Refusal:
    """Several models are served, and the request names none."""
    return Refusal(400, f"`model` is missing. Served are: {', '.join(models)}.", code="model_missing")


def model_unknown(model: str, models: Sequence[str]) -> Refusal:
    """Several models are served, and the request names another."""
    message = f"The model `{model[:LONGEST]}` does not exist. Served are: {', '.join(models)}."
    return Refusal(404, message, code="model_not_found")


def none_fits(pool: Pool, facts: Facts) -> Refusal:
    """No endpoint that may be picked serves what the request asks for."""
    if not pool.several_models:
        return no_replica(pool)
    models = pool.models()
    if facts.model is None:
        return model_missing(models)
    if facts.model not in models:
        return model_unknown(facts.model, models)
    return no_replica(pool, facts.model)


def no_replica(pool: Pool, model: str | None = None) -> Refusal:
    """Nothing can be picked now. Says how far each start is, so that a waiting person knows what for.

    If a model is given, only of the replicas that serve it.
    """
    members = [member for member in pool.members() if model is None or member.knows(model)]
    of_model = "" if model is None else f" of {model}"
    message = f"no replica{of_model} is available (0 of {len(members)})" if members else pool.why_none
    told = [_told(member) for member in members]
    if len(told) > TOLD_MOST:
        told[TOLD_MOST:] = [f"and {len(told) - TOLD_MOST} more"]
    message = "; ".join([message or "no replica is known yet", *told])
    later = bool(pool.why_none) or any(member.endpoint.state in (State.STARTING, State.UNREADY) for member in members)
    return unavailable(503, message, retry_after_seconds=5 if later else 1, code="no_ready_replica")


def shutting_down() -> Refusal:
    """The gateway was told to end."""
    return unavailable(503, "the server is shutting down", retry_after_seconds=5, code="shutting_down")


def _told(member: Member) -> str:
    endpoint = member.endpoint
    how = endpoint.state.value
    if endpoint.state is State.READY and not member.healthy:
        how = "does not answer /health with 200" if member.probed else "was not looked at yet"
    return f"replica {endpoint.name}: {how}{' - ' + endpoint.message if endpoint.message else ''}"
