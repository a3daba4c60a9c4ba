"""Sends one request to an endpoint, and to another if that failed before the client had a byte.

pick -> lease -> attempt -> pass on or judge -> again? Each step is decided elsewhere; this is the straight line.
"""

import asyncio
import time
from collections.abc import Sequence

import msgspec

from dp_vllm.engine.routes import Dialect, Reach, parameter
from dp_vllm_gateway import judge, refusals, retry
from dp_vllm_gateway.aborts import Aborts
from dp_vllm_gateway.attempt import Attempt
from dp_vllm_gateway.call import Call
from dp_vllm_gateway.config import GatewayConfig
from dp_vllm_gateway.deaths import Deaths
from dp_vllm_gateway.decisions import Decisions
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.homes import Homes
from dp_vllm_gateway.lease import Lease
from dp_vllm_gateway.member import Member
from dp_vllm_gateway.outcome import Aborted, Failed, Outcome, Passed, Whole
from dp_vllm_gateway.outgoing import Outgoing
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.queue import Called, Held, Queue, Turn
from dp_vllm_gateway.relay import Relay
from dp_vllm_gateway.retry import Failure, Verdict
from dp_vllm_gateway.routing import held
from dp_vllm_gateway.routing.choice import Candidate, Choice
from dp_vllm_gateway.routing.fair import Line
from dp_vllm_gateway.routing.held import Prospect
from dp_vllm_gateway.routing.router import Router, views
from dp_vllm_gateway.upstream import Connection


class Proxy:
    """Owns the attempts that are under way."""

    def __init__(self, config: GatewayConfig, pool: Pool, router: Router) -> None:
        self._limits = config.limits
        self._root_path = config.root_path.encode()
        self._router = router
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._budget = retry.Budget(self._loop.time(), processes=config.workers)
        self._deaths = Deaths()
        self.homes = Homes()
        self.aborts = Aborts()
        self._attempts: set[Attempt] = set()
        self.queue = Queue(
            config.limits,
            to_go=self._to_go,
            anyway=self._anyway,
            lease=self._lease,
            next_room_at=pool.next_read,
            retry_after_seconds=self._retry_after_seconds,
        )
        pool.on_room = self.queue.room
        self.decisions = Decisions()
        self.retries = 0

    async def forward(self, out: Outgoing, relay: Relay, call: Call) -> None:
        """Answer the client from some endpoint. Raises Refusal if none could answer and nothing was sent."""
        self._budget.deposit()
        self._refuse_poison(out)
        tried: list[str] = []
        replays = 0
        failed: Failed | None = None
        while True:
            choice = None if self._is_queued_for(out, tried) else self._choose(out, tried, failed)
            if choice is None:
                choice, lease = await self._wait_for_room(out, call)
            else:
                lease = self._lease(choice, out.facts)
            with lease:
                member = choice.picked
                tried.append(member.name)
                call.attempts += 1
                call.replica = member.name
                if choice.views:
                    self.decisions.record(time.time(), call, out.facts, choice)
                outcome = await self._attempt(out, lease, relay, call)
                failed = self._settle(out, lease, outcome, relay, call)
            if failed is None:
                return
            self._allow_another(out, failed, member, replays)
            replays += failed.failure not in retry.NOT_STARTED
            self.retries += 1

    # choosing

    def _is_queued_for(self, out: Outgoing, tried: list[str]) -> bool:
        """Whether others wait for what this one wants. What has been sent once is sent again at once.

        What is about a response that exists, such as its cancellation, has no prompt and waits for nothing.
        """
        waits = self.queue.requests > 0 and not tried and out.route.reach is not Reach.HOME
        return waits and self.queue.holds(self._line_of(out))

    def _line_of(self, out: Outgoing) -> str | None:
        """Which line it would wait in: one for each model."""
        return out.facts.model if self._pool.several_models else None

    def _lease(self, choice: Choice[Member], facts: Facts) -> Lease:
        return self._pool.lease(choice.picked, facts, reason=choice.reason, cached_tokens=choice.cached_tokens)

    async def _wait_for_room(self, out: Outgoing, call: Call) -> Turn:
        """The replica that it should go to has as much as it may: wait until one has room."""
        facts = out.facts
        candidates = self._pool.candidates(facts, full=True)
        if not candidates:
            raise refusals.none_fits(self._pool, facts)
        began, waiting = self._loop.time(), self._loop.create_future()
        entry = held.entry(
            *(facts, candidates, began, waiting),
            priority=out.priority,
            rank=out.rank,
            key=call.key,
            body_bytes=len(out.body),
        )
        try:
            return await self.queue.wait(self._line_of(out), entry)
        finally:
            call.queued_seconds = self._loop.time() - began

    def _to_go(self, line: Line[Called]) -> list[tuple[Held, Choice[Member]]]:
        """Who of those who wait may go now. Raises Refusal if there is nowhere to go to."""
        first = next(line.in_order()).facts
        crowd = self._pool.prospects(first)
        if not crowd:
            if not self._pool.candidates(first, full=True):
                raise refusals.none_fits(self._pool, first)
            return []
        found = held.to_go(line, crowd, self._route_prospect, self._pool.ahead_seconds)
        return [(entry, self._watched(choice)) for entry, choice in found]

    def _anyway(self, facts: Facts) -> Choice[Member] | None:
        """Where a request may go that should not wait any longer, however much is to be read there; None: nowhere."""
        candidates, home = self._pool.candidates(facts), self._home(facts.previous_response)
        if home is not None:
            return _home_choice([home] if home in candidates else [])
        return self._route(candidates, facts)

    def _route_prospect(self, crowd: Sequence[Prospect[Member]], facts: Facts) -> Choice[Prospect[Member]] | None:
        home = self._home(facts.previous_response)
        if home is not None:
            return _home_choice([prospect for prospect in crowd if prospect.of is home])
        if self._pool.several_models:
            crowd = [prospect for prospect in crowd if prospect.of.knows(facts.model)]
        return self._router.choose(crowd, facts, watched=True)

    def _watched(self, choice: Choice[Member]) -> Choice[Member]:
        return choice if self.decisions.wants(self._loop.time()) else msgspec.structs.replace(choice, views=())

    def _choose(self, out: Outgoing, tried: list[str], failed: Failed | None) -> Choice[Member] | None:
        """Where to send it; None if there is no room yet. Raises Refusal if there is nowhere to send it.

        What has been sent once is sent again whether or not there is room: it has had its turn.
        """
        facts = out.facts
        if not tried and out.route.reach is Reach.HOME:
            home = self._home(parameter(out.route, out.target.partition("?")[0]))
            if home is not None:
                return _home_choice([home])
        if not tried and (home := self._home(facts.previous_response)) is not None:
            has_room = home in self._pool.candidates(facts) and self._pool.fits(home, facts.tokens)
            return _home_choice([home] if has_room else [])
        choice = self._route(self._pool.candidates(facts, tried, full=bool(tried)), facts)
        if choice is not None:
            fits = tried or self._pool.fits(choice.picked, facts.tokens - choice.cached_tokens)
            return choice if fits else None
        if self._pool.candidates(facts, tried, full=True):
            return None
        raise refusals.for_failure(failed, tried[-1]) if failed else refusals.none_fits(self._pool, out.facts)

    def _route(self, candidates: Sequence[Candidate], facts: Facts) -> Choice[Candidate] | None:
        return self._router.choose(candidates, facts, watched=self.decisions.wants(self._loop.time()))

    def _home(self, response: str | None) -> Member | None:
        """The replica that alone knows this response, if there is one and it is available."""
        if response is None:
            return None
        name = self.homes.of(response)
        member = self._pool.member(name) if name is not None else None
        return member if member is not None and member.available else None

    # one attempt

    async def _attempt(self, out: Outgoing, lease: Lease, relay: Relay, call: Call) -> Outcome:
        member = lease.member
        connection = member.connections.idle(self._loop.time())
        if connection is None:
            try:
                connection = await member.connections.connect()
            except OSError as error:
                self._pool.not_connected(member)
                return Failed(Failure.CONNECT, str(error) or type(error).__name__)

        attempt = Attempt(connection, relay, lease, call, out, self._limits, self._root_path)
        self._attempts.add(attempt)
        try:
            connection.send(out.bytes_for(member.host), attempt, head_only=out.method == "HEAD")
            outcome = _judged(out, await attempt.finish())
            if isinstance(outcome, Aborted):
                outcome = await self._after_abort(outcome, attempt, member, connection)
        finally:
            self._attempts.discard(attempt)
            member.connections.give_back(connection, self._loop.time())
        if isinstance(outcome, Passed):
            self._passed(out, attempt, outcome, member, call)
        return outcome

    async def _after_abort(self, aborted: Aborted, attempt: Attempt, member: Member, connection: Connection) -> Outcome:
        """What an abort is: the client's answer, or a failure of an engine that ends."""
        if await self.aborts.is_answer(member, connection):
            return attempt.pass_abort() if aborted.whole is None else aborted.whole
        return attempt.refuse_abort()

    def _passed(self, out: Outgoing, attempt: Attempt, outcome: Passed, member: Member, call: Call) -> None:
        """Learn from an answer that was passed on as it came."""
        call.status = attempt.status
        self._learn_usage(out, call)
        if out.route.dialect is Dialect.RESPONSES:
            self.homes.learn(attempt.first, member.name)
        if outcome is Passed.BROKEN:
            call.broken, call.reason = True, "broken"
            self._deaths.record(out.body, member.life, self._loop.time())

    def _settle(self, out: Outgoing, lease: Lease, outcome: Outcome, relay: Relay, call: Call) -> Failed | None:
        """Send a whole answer on; None if the client has an answer, else the failure."""
        if isinstance(outcome, Failed):
            return outcome
        lease.member.failed_connections = 0
        if isinstance(outcome, Whole):
            self._send(out, lease, outcome, relay, call)
        if not call.broken:
            self._deaths.answered(out.body)
        return None

    def _learn_usage(self, out: Outgoing, call: Call) -> None:
        if call.prompt_tokens and out.facts.tokens:
            self._pool.token_ratio.learn(out.facts.tokens, call.prompt_tokens)

    def _send(self, out: Outgoing, lease: Lease, whole: Whole, relay: Relay, call: Call) -> None:
        call.status = whole.status
        call.answered_at = self._loop.time()
        call.usage(whole.body)
        self._learn_usage(out, call)
        if out.route.dialect is Dialect.RESPONSES:
            self.homes.learn(whole.body, lease.member.name)
        if relay.begun:  # a client that was kept waiting with comments
            relay.end(b"data: " + whole.body + b"\n\n")
        else:
            relay.whole(whole.status, whole.headers.lines + out.answer_lines + lease.answer_lines(), whole.body)

    # after a failure

    def _refuse_poison(self, out: Outgoing) -> None:
        if self._deaths.of(out.body, self._loop.time()) >= retry.DEATHS_PER_REQUEST:
            raise refusals.poison()

    def _allow_another(self, out: Outgoing, failed: Failed, member: Member, replays: int) -> None:
        """Return if the request may be sent again; else raise what the client is told."""
        now = self._loop.time()
        deaths = self._deaths.record(out.body, member.life, now) if failed.failure in retry.DEATHS else 0
        verdict = retry.after(retry.Attempted(failed.failure, replays, deaths, out.route.replayable))
        if verdict is Verdict.POISON:
            raise refusals.poison()
        if verdict is Verdict.GIVE_UP or not self._budget.withdraw(now):
            raise refusals.for_failure(failed, member.name)

    # from outside

    def check(self, now: float) -> None:
        """End the attempts that take too long. `now` is the event loop's time."""
        for attempt in list(self._attempts):
            attempt.check(now)

    def stop(self, message: str) -> None:
        """End all attempts: streams with an error event that says why."""
        self.queue.stop(refusals.shutting_down())
        for attempt in list(self._attempts):
            attempt.stop(message)

    def _retry_after_seconds(self, queued_tokens: int) -> int:
        """How long the replicas will take to read what waits here and there."""
        members = [member for member in self._pool.members() if member.available]
        tokens = queued_tokens + sum(member.waiting_tokens for member in members)
        return 1 + int(tokens / max(1.0, sum(member.tokens_per_second for member in members)))


def _judged(out: Outgoing, outcome: Outcome) -> Outcome:
    """The same, unless a whole answer is an engine's way to say that it failed."""
    if not isinstance(outcome, Whole):
        return outcome
    failure = judge.failure_of(outcome.status, outcome.body, out.route.dialect)
    if failure is None:
        return outcome
    return Aborted(outcome) if failure is Failure.ABORTED else Failed(failure, f"status {outcome.status}")


def _home_choice(homes: Sequence[Candidate]) -> Choice[Candidate] | None:
    """The only one that a request may go to, or none."""
    return Choice(homes[0], "home", views=views(homes)) if homes else None
