"""Sends one request to every replica and answers with each result: adapters, caches, sleep, profiles.

Where several models are served, `?model=NAME` sends it to the replicas of that one alone.

A change that stays (an adapter, sleep) is repeated to a replica that restarts, before it is given any request. For
that, changes and repeats take turns: a replica that comes back has either all that was changed before, or is among
those that the next change is sent to. A change is kept if at least one replica made it: those that failed get it when
they restart, and the answer names those that refused it. What was begun is finished, whether or not the client stays.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from dp_vllm.endpoints import State
from dp_vllm.engine.routes import Route, route_of
from dp_vllm_gateway import refusals
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.fetch import Fetched, fetch
from dp_vllm_gateway.lasting import MOST_CHANGE_BYTES, MOST_CHANGES, Change, Lasting, model_of
from dp_vllm_gateway.listed import listed
from dp_vllm_gateway.member import Member
from dp_vllm_gateway.outgoing import Outgoing
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.replies import TYPES, Refusal
from dp_vllm_gateway.upstream import UpstreamError

REPEAT_SECONDS: Final = 60.0
"""How long a replica that restarted may take for one change; it is tried again with the next look at it."""

MOST_REPEATS: Final = 10
"""How often one change is repeated to one replica that fails or refuses each time: it may be what ends the engine."""

_Done = TypeVar("_Done")

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

    def __init__(self, pool: Pool, *, seconds: float, on_forget: Callable[[], None]) -> None:
        """`on_forget` is called when the replicas' prefix caches were emptied."""
        self._pool = pool
        self._seconds = seconds
        self._on_forget = on_forget
        self._lasting = Lasting()
        self._failed: dict[tuple[str, Change], int] = {}
        """How often in a row a replica could not be given a change again."""
        self.on_change: Callable[[Change], None] | None = None
        """Called with what was changed on all replicas, and is to stay so or is to stay so no longer."""
        self._turn = asyncio.Lock()

    async def send(self, out: Outgoing) -> Fetched:
        """Send to all replicas at once; the answer holds each result. Raises Refusal if there is no replica."""
        route = out.route
        if not (route.lasting or route.ends):
            return await _to_the_end(self._send(out))
        change = Change(out.method, out.target, _lines(out), out.body)
        async with self._turn:
            self._judge(route, change)
            return await _to_the_end(self._send(out, change))

    async def _send(self, out: Outgoing, change: Change | None = None) -> Fetched:
        results = await self._to_all(out)
        if out.route.forgets:
            self._on_forget()
        if change is not None and in_force(out.route, results):
            self.note(change)
            if self.on_change is not None:
                self.on_change(change)
        return combined(results)

    def _judge(self, route: Route, change: Change) -> None:
        """Raise Refusal if a change cannot be kept for replicas that restart, or told to other processes."""
        if change.size > MOST_CHANGE_BYTES:
            message = (
                f"this request has {change.size} bytes; at most {MOST_CHANGE_BYTES} are kept for restarted replicas"
            )
            raise Refusal(413, message, code="change_too_large")
        if route.lasting and not self._lasting.has_room(route, change):
            message = (
                f"{MOST_CHANGES} changes are kept for restarted replicas already; undo one first, such as an adapter"
            )
            raise Refusal(409, message, code="too_many_changes")

    def note(self, change: Change) -> None:
        """All replicas were changed, by another process too."""
        self._lasting.note(route_of(change.method, change.target.partition("?")[0]), change)
        kept = set(self._lasting.changes()) - {change}  # what is made again may be repeated again
        self._failed = {key: count for key, count in self._failed.items() if key[1] in kept}

    def changes(self) -> tuple[Change, ...]:
        """What a new replica lacks, the oldest first."""
        return self._lasting.changes()

    async def bring_up_to_date(self, member: Member) -> bool:
        """Repeat what was changed to a replica that has just become healthy; whether it was reached with all of it.

        What the engine itself refuses is logged, and not tried again before it restarts: an adapter that is gone must
        not keep a replica from serving. What fails `MOST_REPEATS` times is not repeated to this replica any more.
        """
        async with self._turn:
            for change in self._lasting.changes():
                model = self._model_of(change.target)
                if model is not None and not member.knows(model):
                    continue
                if self._failed.get((member.name, change), 0) < MOST_REPEATS and not await self._repeat(member, change):
                    return False
            return True

    async def _repeat(self, member: Member, change: Change) -> bool:
        """Whether the replica answered."""
        try:
            answer = await fetch(member, *change, seconds=REPEAT_SECONDS)
        except (OSError, UpstreamError) as error:
            log.warning("replica %s could not be given %s again: %s", member.name, change.target, _told(error))
            self._count_failure(member, change)
            return False
        if Result(*answer).good or _was_made_already(answer):
            log.info("replica %s was given %s again", member.name, change.target)
            self._failed.pop((member.name, change), None)
        else:
            text = answer.body.decode(errors="replace")[:500]
            log.error("replica %s refused %s again: %d %s", member.name, change.target, answer.status, text)
            self._count_failure(member, change)
        return True

    def _count_failure(self, member: Member, change: Change) -> None:
        count = self._failed[member.name, change] = self._failed.get((member.name, change), 0) + 1
        if count == MOST_REPEATS:
            log.error("replica %s failed %s %d times and is not given it any more", member.name, change.target, count)

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


async def _to_the_end(work: Coroutine[Any, Any, _Done]) -> _Done:
    """Finish what was begun though the client leaves, which cancels the one who waits."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await task
        raise


def in_force(route: Route, results: Mapping[str, Result]) -> bool:
    """Whether a change is to be kept: some replica made it, or all healthy ones lack what it takes back. Pure."""
    statuses = {result.status for result in results.values()}
    return any(result.good for result in results.values()) or (bool(route.ends) and {404} <= statuses <= {404, 503})


def _was_made_already(answer: Fetched) -> bool:
    """Whether an engine refused a change as it was made before: another process of the gateway came first."""
    return answer.status in (400, 409) and b"already" in answer.body


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
