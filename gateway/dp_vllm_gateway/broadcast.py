"""Sends one request to every replica and answers with each result: adapters, caches, sleep, profiles.

Where several models are served, `?model=NAME` sends it to the replicas of that one alone.

A change that stays (an adapter, sleep) is repeated to a replica that restarts, before it is given any request. For
that, changes and repeats take turns: a replica that comes back has either all that was changed before, or is among
those that are told.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from dp_vllm.endpoints import State
from dp_vllm.engine.routes import route_of
from dp_vllm_gateway import refusals
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.fetch import Fetched, fetch
from dp_vllm_gateway.lasting import Change, Lasting, model_of
from dp_vllm_gateway.listed import listed
from dp_vllm_gateway.member import Member
from dp_vllm_gateway.outgoing import Outgoing
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.replies import TYPES
from dp_vllm_gateway.upstream import UpstreamError

REPEAT_SECONDS: Final = 60.0
"""How long a replica that restarted may take for one change; it is tried again with the next look at it."""

_NOBODYS: Final = Facts(sequences=0)
"""What a change is as a load: nothing."""

log = logging.getLogger(__name__)


class Result(NamedTuple):
    """What came of the request at one replica."""

    status: int
    """502: the connection failed, 503: the replica is not healthy, so it was not asked."""
    body: Any

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300


class Broadcasts:
    """Owns what was changed on all replicas and stays changed."""

    def __init__(self, pool: Pool, *, seconds: float) -> None:
        self._pool = pool
        self._seconds = seconds
        self._lasting = Lasting()
        self.on_change: Callable[[Change], None] | None = None
        """Called with what was changed on all replicas, and is to stay so or is to stay so no longer."""
        self._turn = asyncio.Lock()

    async def send(self, out: Outgoing) -> Fetched:
        """Send to all replicas at once; the answer holds each result. Raises Refusal if there is no replica."""
        if not (out.route.lasting or out.route.ends):
            return combined(await self._to_all(out))
        async with self._turn:
            change = Change(out.method, out.target, _lines(out), out.body)
            try:
                results = await self._to_all(out)
            except asyncio.CancelledError:  # the client left; the engines go on
                self._made(change)
                raise
            if any(result.good for result in results.values()):
                self._made(change)
            return combined(results)

    def note(self, change: Change) -> None:
        """All replicas were changed, by another process too."""
        self._lasting.note(route_of(change.method, change.target.partition("?")[0]), change)

    def changes(self) -> tuple[Change, ...]:
        """What a new replica lacks, the oldest first."""
        return self._lasting.changes()

    def _made(self, change: Change) -> None:
        self.note(change)
        if self.on_change is not None:
            self.on_change(change)

    async def bring_up_to_date(self, member: Member) -> bool:
        """Repeat what was changed to a replica that has just become healthy; whether it was reached with all of it.

        What the engine itself refuses is logged and not tried again: an adapter that is gone must not keep a replica
        from serving.
        """
        async with self._turn:
            for change in self._lasting.changes():
                model = self._model_of(change.target)
                if model is not None and not member.knows(model):
                    continue
                try:
                    answer = await fetch(member, *change, seconds=REPEAT_SECONDS)
                except (OSError, UpstreamError) as error:
                    log.warning("replica %s could not be given %s again: %s", member.name, change.target, _told(error))
                    return False
                if Result(*answer).good:
                    log.info("replica %s was given %s again", member.name, change.target)
                else:
                    said = answer.body.decode(errors="replace")[:500]
                    log.error("replica %s refused %s again: %d %s", member.name, change.target, answer.status, said)
            return True

    async def _to_all(self, out: Outgoing) -> dict[str, Result]:
        model = self._model_of(out.target)
        if model is not None and model not in self._pool.models():
            raise refusals.model_unknown(model, self._pool.models())
        members = [m for m in self._pool.members() if m.endpoint.state is State.READY or m.serves(State.UNREADY)]
        members = [member for member in members if model is None or member.knows(model)]
        if not any(member.healthy for member in members):
            raise refusals.no_replica(self._pool, model)
        with contextlib.ExitStack() as leases:
            for member in members:
                leases.enter_context(self._pool.lease(member, _NOBODYS))
            async with asyncio.TaskGroup() as group:
                tasks = {member.name: group.create_task(self._to_one(member, out)) for member in members}
        return {name: task.result() for name, task in tasks.items()}

    async def _to_one(self, member: Member, out: Outgoing) -> Result:
        if not member.healthy:
            later = "; it will be when it comes back" if out.route.lasting else ""
            return Result(503, f"the replica is not healthy, so it was not asked{later}")
        try:
            answer = await fetch(member, out.method, out.target, _lines(out), out.body, seconds=self._seconds)
        except (OSError, UpstreamError) as error:
            return Result(502, f"the replica could not be asked: {_told(error)}")
        result = Result(answer.status, _value(answer.body))
        if self._pool.several_models and result.good and (out.route.lasting or out.route.ends):
            found = await listed(member, seconds=self._seconds, lines=_lines(out))
            if found is not None:
                self._pool.note_adapters(member, found.adapters)
        return result

    def _model_of(self, target: str) -> str | None:
        """The model whose replicas are meant; None if all are."""
        return model_of(target) if self._pool.several_models else None


def combined(results: Mapping[str, Result]) -> Fetched:
    """One answer of all results: 200 if all are good, else the worst status, and who failed. Pure."""
    bad = {name: result.status for name, result in results.items() if not result.good}
    value: dict[str, Any] = {"results": {name: result._asdict() for name, result in results.items()}}
    if not bad:
        return Fetched(200, msgspec.json.encode(value))
    worst = max(bad.values())
    kind = TYPES.get(worst, "server_error" if worst >= 500 else "invalid_request_error")
    told = ", ".join(f"replica {name} answered {status}" for name, status in bad.items())
    done = len(results) - len(bad)
    message = f"{told}; done by {done} of {len(results)}"
    value["error"] = {"message": message, "type": kind, "param": None, "code": worst}
    return Fetched(worst, msgspec.json.encode(value))


def _lines(out: Outgoing) -> bytes:
    """The request's header lines, so that the answers come as they are read here: not compressed."""
    lines = out.lines.splitlines(keepends=True)
    return b"".join(line for line in lines if not line[:16].lower().startswith(b"accept-encoding:"))


def _value(body: bytes) -> Any:
    try:
        msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return body.decode(errors="replace")
    return msgspec.Raw(body)


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
