"""The one owner of what is known of each endpoint: its state, its health, its load, its connections.

Synchronous. Discovery says what exists (`sync`), probes say what they saw (`observe`), requests take leases; others
see snapshots. A lease is taken and given back by `with`, so in-flight is back to 0 whatever becomes of a request.
"""

import asyncio
import math
from collections.abc import Callable, Collection, Mapping
from typing import Final

from dp_vllm import names
from dp_vllm.endpoints import Endpoint, EndpointSet, State
from dp_vllm_gateway import engine_metrics
from dp_vllm_gateway.config import Limits
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.lease import Lease
from dp_vllm_gateway.member import NOWHERE, InFlight, Member, Prefill, Seen
from dp_vllm_gateway.routing import blocks, learned
from dp_vllm_gateway.routing.held import Prospect, has_room
from dp_vllm_gateway.routing.load import BYTES_PER_TOKEN
from dp_vllm_gateway.upstream import Connections

EJECT_SECONDS: Final = 1.0
"""How long an endpoint is left out after a failed connection; twice as long after each further one."""

EJECT_MOST_SECONDS: Final = 60.0

FAILED_PROBES: Final = 3
"""So many in a row and an endpoint is not healthy; one that could not be connected to, or a 503, is enough."""

SLOW_START_SECONDS: Final = 10.0
"""For so long an endpoint that has just become available gets fewer requests than the others: its first ones warm it
up, and without that all would go to it until it has as many in flight."""

PANIC_SHARE: Final = 0.5
"""If more than this share of the endpoints is ejected, ejections are not believed: they would bury the rest."""


class Pool:
    """All endpoints of one gateway process."""

    def __init__(
        self,
        *,
        connect_seconds: float,
        clock: Callable[[], float],
        most_sequences: int = Limits().max_replica_sequences,
        ahead_seconds: float = math.inf,
    ) -> None:
        """`ahead_seconds`: how much of reading an endpoint may have that it has not begun to answer."""
        self._members: dict[str, Member] = {}
        self._leaving: list[Member] = []
        """No longer endpoints of ours, but requests are in flight on them."""
        self._connect_seconds = connect_seconds
        self._clock = clock
        self._changed = asyncio.Event()
        self._emptied = asyncio.Event()
        self._awaited = False
        """Somebody waits for the last lease to end."""
        self._most_sequences = most_sequences
        self.ahead_seconds = ahead_seconds
        self._some_full = False
        """Some endpoint may have as much in flight as it may."""
        self.on_room: Callable[[], None] = _nothing
        """Called when there may be room at an endpoint."""
        self._in_line = 0
        """Of how many other processes requests wait for room."""
        self.on_look: Callable[[Facts], None] | None = None
        """Called before a decision for such a request: what other processes have said may be taken in."""
        self.on_begin: Callable[[Member, list[int], int], None] | None = None
        """Called when an endpoint is sent a prompt of these blocks, of which it has to read so many tokens."""
        self.on_less: Callable[[], None] | None = None
        """Called when less is in flight from here."""
        self._available: list[Member] = []
        self._ejected = False
        self.several_models = False
        """Whether the endpoints serve different models, so that a request's `model` decides."""
        self.generation = 0
        self.why_none = ""
        self.known = False
        """Whether discovery has said what exists."""
        self.looked = False
        """Whether every endpoint that was ready when discovery first spoke has been looked at since."""
        self.token_ratio = learned.TokenRatio()

    # what discovery and probes say

    def sync(self, endpoints: EndpointSet) -> None:
        """Make the pool hold exactly these endpoints. One with a new incarnation or address is a new one.

        The old one's engine has ended then, and so do its requests. Those of an endpoint that is not named any more go
        on: somebody may have taken it out of the set while it works.
        """
        wanted = {endpoint.name: endpoint for endpoint in endpoints.endpoints}
        for name, member in list(self._members.items()):
            new = wanted.get(name)
            if new is not None and not _other_engine(member.endpoint, new):
                continue
            del self._members[name]
            member.available = False
            if new is None:
                self._leaving.append(member)
            else:
                member.connections.close()
        for name, endpoint in wanted.items():
            present = self._members.get(name)
            if present is None:
                connections = Connections(endpoint.address, connect_seconds=self._connect_seconds)
                self._members[name] = Member(
                    *(endpoint, connections, _host(endpoint.address), _answer_line(name)),
                    models=frozenset(endpoint.models),
                )
            else:
                present.endpoint = endpoint
        self.generation = endpoints.generation
        self.why_none = endpoints.why_none
        self.known = True
        self.tick()
        self._notify()

    def tick(self) -> None:
        """Twice a second: forget the endpoints that left, once their last request has ended; let handicaps fade."""
        self._handicap()
        for member in self._leaving:
            if not member.requests:
                member.connections.close()
        self._leaving = [member for member in self._leaving if member.requests]
        self.on_room()  # some may have come back that were left out

    def observe(self, name: str, incarnation: str, seen: Seen) -> None:
        """Take in what a probe found; ignored if the endpoint is no longer the one that was looked at."""
        member = self._members.get(name)
        if member is None or member.endpoint.incarnation != incarnation:
            return
        member.probed = True
        if seen.healthy:
            if not member.healthy:
                member.lives += 1
                member.remembered.forget()
            member.healthy = True
            member.failed_probes = 0
            if seen.models is not None:
                member.models = seen.models
            if seen.adapters is not None:
                self.note_adapters(member, seen.adapters)
            if seen.scrape is not None:
                member.scrape = seen.scrape
                member.cache_tokens = engine_metrics.cache_tokens(seen.scrape) or member.cache_tokens
            member.remembered.capacity = self._blocks_that_fit(member)
        else:
            member.failed_probes += 1
            if seen.certain or member.failed_probes >= FAILED_PROBES:
                member.healthy = False
        self._notify()

    def note_adapters(self, member: Member, adapters: frozenset[str]) -> None:
        """The engine has these adapters now."""
        member.adapters = adapters

    def not_connected(self, member: Member) -> None:
        """A request could not reach the endpoint: leave it out for a while."""
        seconds = min(EJECT_SECONDS * 2**member.failed_connections, EJECT_MOST_SECONDS)
        member.failed_connections += 1
        member.ejected_until = self._clock() + seconds
        member.ejections += 1
        self._ejected = True

    # what a decision sees

    def candidates(self, facts: Facts, tried: Collection[str] = (), *, full: bool = False) -> list[Member]:
        """The endpoints that may be picked now for such a request, except those that were tried. To be read only.

        Those that have as much in flight as they may are among them only if `full`.
        """
        if self.on_look is not None:
            self.on_look(facts)
        now = self._clock()
        candidates = self._of_model(facts.model)
        if self._ejected:
            candidates = self._inside(candidates, now)
        if self._some_full and not full:
            candidates = self._with_room(candidates)
        for member in candidates:
            if member.prefills:
                self._end_prefills(member, now)
        if tried:
            candidates = [member for member in candidates if member.name not in tried]
        return candidates

    def lacks(self, model: str | None) -> bool:
        """Whether no endpoint can be picked now for a request that names this model, but one may come."""
        return not self._of_model(model) and (not self.several_models or model in self.models())

    def _of_model(self, model: str | None) -> list[Member]:
        """The available endpoints that serve the model."""
        if not self.several_models:
            return self._available
        return [member for member in self._available if member.knows(model)]

    def _inside(self, candidates: list[Member], now: float) -> list[Member]:
        """These available endpoints less the ejected ones, unless those are too many to be believed."""
        self._ejected = any(member.ejected_until > now for member in self._available)
        inside = [member for member in candidates if member.ejected_until <= now]
        return candidates if len(inside) < len(candidates) * (1 - PANIC_SHARE) else inside

    def _with_room(self, candidates: list[Member]) -> list[Member]:
        """Those that may have more. While others wait too, each process leaves them their share."""
        self._some_full = any(member.sequences >= self._most_sequences for member in self._available)
        return [member for member in candidates if self._places(member) > 0]

    def _places(self, member: Member) -> int:
        """How many more sequences it may be given from here."""
        places = self._most_sequences - member.sequences
        if self._in_line:
            share = max(1, self._most_sequences // (1 + self._in_line))
            places = min(places, share - member.own.sequences)
        return places

    def fits(self, member: Member, tokens: int) -> bool:
        """Whether the endpoint may be given a prompt of which it has to read so many tokens, while nobody waits."""
        unread = member.waiting_tokens
        if not unread or has_room(unread, tokens, most := self.ahead_seconds * member.tokens_per_second):
            return True
        return bool(member.prefills) and has_room(member.unread(self._clock()), tokens, most)

    def prospects(self, facts: Facts) -> list[Prospect[Member]]:
        """What `candidates` says, for those who wait: each can be taken to have more than it has."""
        return [self.prospect(member) for member in self.candidates(facts)]

    def prospect(self, member: Member) -> Prospect[Member]:
        """An endpoint as it is now, to be taken to have more."""
        return Prospect(
            of=member,
            name=member.name,
            waiting_tokens=member.waiting_tokens,
            sequences=member.sequences,
            handicap=member.handicap,
            tokens_per_second=member.tokens_per_second,
            remembered=member.remembered,
            unread=member.unread(self._clock()),
            places=self._places(member),
        )

    def next_read(self) -> float | None:
        """When the next prompt will surely have been read of which nobody will tell; None if there is none."""
        now = self._clock()
        ends = (
            prefill.surely_at
            for member in self._available
            for prefill in member.prefills
            if prefill.tokens and prefill.surely_at > now
        )
        return min(ends, default=None)

    def members(self) -> list[Member]:
        """All endpoints, available or not, in the order in which they were named."""
        return list(self._members.values())

    def member(self, name: str) -> Member | None:
        """One endpoint."""
        return self._members.get(name)

    def unseen(self) -> list[str]:
        """The endpoints that should serve and were not looked at yet."""
        return [m.name for m in self._members.values() if m.endpoint.state is State.READY and not m.probed]

    @property
    def available(self) -> bool:
        """Whether any endpoint may be picked."""
        return bool(self._available)

    def any_model(self) -> str | None:
        """A model of an available endpoint; None if there is no such endpoint."""
        return next((min(member.models) for member in self._available if member.models), None)

    def models(self) -> list[str]:
        """The names of all models that are served, and of their adapters."""
        return sorted(set().union(*(member.models | member.adapters for member in self._members.values())))

    @property
    def in_flight(self) -> int:
        """Requests that hold a lease."""
        return sum(member.requests for member in (*self._members.values(), *self._leaving))

    # leases

    def lease(self, member: Member, facts: Facts, *, reason: str = "", cached_tokens: int = 0) -> Lease:
        """A place at the endpoint, to be entered with `with`, for a prompt of which so many tokens are cached there."""
        return Lease(self, member, facts, reason, cached_tokens)

    def begin_prefill(self, member: Member, tokens: int, *, stream: bool) -> Prefill:
        """Count a prompt as waiting until its answer begins, or, without a stream, until it should have been read."""
        prefill = Prefill(0.0, tokens)
        if not stream:
            now, seconds = self._clock(), (member.waiting_tokens + tokens) / member.tokens_per_second
            prefill.done_at, prefill.surely_at = now + seconds, now + seconds / learned.WIDEST
            member.prefills.append(prefill)
        elif tokens >= learned.LEARN_FROM_TOKENS and not member.waiting_tokens:
            prefill.alone_since = self._clock()
        member.waiting_tokens += tokens
        return prefill

    def read_alone(self, member: Member, prefill: Prefill) -> None:
        """A prompt that found no other before it has been read: learn from that how fast the engine is."""
        seconds = self._clock() - prefill.alone_since
        prefill.alone_since = 0.0
        member.tokens_per_second = learned.speed_after(member.tokens_per_second, prefill.tokens, seconds)

    def forget_prefixes(self) -> None:
        """All engines' prefix caches are empty."""
        for member in self._members.values():
            member.remembered.forget()

    def _blocks_that_fit(self, member: Member) -> int:
        return int(member.cache_tokens / self.token_ratio.value * BYTES_PER_TOKEN / blocks.BLOCK_BYTES)

    def _end_prefills(self, member: Member, now: float) -> None:
        prefills = member.prefills
        while prefills and (not prefills[0].tokens or prefills[0].done_at <= now):
            done = prefills.popleft()
            member.waiting_tokens -= done.tokens
            done.tokens = 0

    # what others are told, and tell

    def begun(self, member: Member, blocks: list[int], tokens: int) -> None:
        """A lease began, for a prompt of these blocks, of which so many tokens are to be read."""
        self._filled(member)
        if self.on_begin is not None:
            self.on_begin(member, blocks, tokens)

    def less_in_flight(self) -> None:
        """A prompt has been read, or a lease ended."""
        if self.on_less is not None:
            self.on_less()
        self.on_room()

    def end_prefills(self, now: float) -> float | None:
        """Count prompts no longer that should have been read; when that will be so of the next one, if any waits."""
        for member in self._members.values():
            self._end_prefills(member, now)
        return min((member.prefills[0].done_at for member in self._members.values() if member.prefills), default=None)

    def count_elsewhere(self, elsewhere: Mapping[tuple[str, str], InFlight], *, in_line: int) -> None:
        """Count what the gateway's other processes have in flight, by name and incarnation of the endpoint.

        Requests wait for room in so many of them.
        """
        for member in self._members.values():
            new = elsewhere.get((member.name, member.endpoint.incarnation), NOWHERE)
            if new != member.elsewhere:
                member.sequences += new.sequences - member.elsewhere.sequences
                member.waiting_tokens += new.waiting_tokens - member.elsewhere.waiting_tokens
                member.elsewhere = new
                self._filled(member)
        self._in_line = in_line
        self.on_room()

    # waiting

    def _filled(self, member: Member) -> None:
        if member.sequences >= self._most_sequences:
            self._some_full = True

    def left(self) -> None:
        """A lease ended."""
        self.less_in_flight()
        if self._awaited and not self.in_flight:
            self._emptied.set()

    async def idle(self) -> None:
        """Wait until no request holds a lease."""
        self._awaited = True
        while self.in_flight:
            self._emptied.clear()
            await self._emptied.wait()

    async def changed(self) -> None:
        """Wait until the endpoints or their health change, or `wake` is called."""
        await self._changed.wait()

    def wake(self) -> None:
        """Let all who wait for a change look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _notify(self) -> None:
        models = {member.models for member in self._members.values() if member.models}
        self.several_models = len(models) > 1
        self.looked = self.looked or (self.known and not self.unseen())
        self._choose_available()
        self.wake()
        self.on_room()

    def _choose_available(self) -> None:
        """Endpoints that are not called ready are used only where no other one serves."""
        members = self._members.values()
        self._available = [member for member in members if member.serves(State.READY)]
        self._available = self._available or [member for member in members if member.serves(State.UNREADY)]
        for member in self._available:
            if not member.available:
                member.available_since = self._clock()
        for member in members:
            member.available = False
        for member in self._available:
            member.available = True
        self._handicap()

    def _handicap(self) -> None:
        """One that has just begun is taken to have as much in flight as the others have on average, ever less of it.

        The others are those that serve the same model.
        """
        now = self._clock()
        fresh = [member for member in self._available if member.handicap or self._is_fresh(member, now)]
        if not fresh:
            return
        settled = [member for member in self._available if not self._is_fresh(member, now)]
        for member in fresh:
            others = [m.sequences for m in settled if not self.several_models or m.models == member.models]
            mean = sum(others) / len(others) if others else 0.0
            left = 1 - (now - member.available_since) / SLOW_START_SECONDS
            member.handicap = max(0, int(mean * left))

    def _is_fresh(self, member: Member, now: float) -> bool:
        return now < member.available_since + SLOW_START_SECONDS


def _nothing() -> None:
    """Nobody asked to be told."""


def _other_engine(old: Endpoint, new: Endpoint) -> bool:
    return (old.address, old.incarnation) != (new.address, new.incarnation)


def _host(address: str) -> bytes:
    return b"localhost" if address.startswith("unix:") else address.encode()


def _answer_line(name: str) -> bytes:
    return f"{names.REPLICA_HEADER}: {name}\r\n".encode()
