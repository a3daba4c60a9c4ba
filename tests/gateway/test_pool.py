"""The pool, in any order of what may happen to it: discovery, probes, failed connections, requests, time."""

import asyncio
import random
from contextlib import ExitStack

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dp_vllm.endpoints import Endpoint, EndpointSet, State
from dp_vllm.policy import Policy
from dp_vllm_gateway.engine_metrics import MOST_CACHE_TOKENS
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.lease import Lease
from dp_vllm_gateway.member import Member, Seen
from dp_vllm_gateway.pool import EJECT_MOST_SECONDS, FAILED_PROBES, SLOW_START_SECONDS, Pool
from dp_vllm_gateway.routing.learned import LEARN_FROM_TOKENS
from dp_vllm_gateway.routing.load import PREFILL_TOKENS_PER_SECOND
from dp_vllm_gateway.routing.router import Router

MODELS = st.sampled_from([frozenset({"a"}), frozenset({"b"}), frozenset({"a", "x"})])
ENDPOINTS = st.dictionaries(
    st.sampled_from("0123"),
    st.tuples(st.sampled_from(["i", "j"]), st.sampled_from(State), st.sampled_from(["h:1", "h:2"])),
    max_size=4,
)
FACTS = st.builds(
    Facts,
    model=st.sampled_from([None, "a", "b", "x"]),
    stream=st.booleans(),
    sequences=st.integers(1, 4),
    tokens=st.integers(3_000, 100_000),
    blocks=st.lists(st.integers(1, 3), max_size=3),
    block_tokens=st.just(1_000.0),
    affinity=st.integers(0, 3),
)


class Happenings(RuleBasedStateMachine):
    """What the pool must be true to is kept here a second time, in the plainest way."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.now = 1000.0
        self.pool = self.runner.run(self._pool())
        self.leases: list[tuple[Lease, Facts]] = []
        self.removed: list[Member] = []
        """Not named any more: requests go on there."""
        self.replaced: list[Member] = []
        """Another engine has their name."""
        self.routers = {policy: Router(policy, rng=random.Random(1)) for policy in Policy}

    async def _pool(self) -> Pool:
        return Pool(connect_seconds=1, clock=lambda: self.now)

    def teardown(self) -> None:
        for lease, _ in self.leases:
            lease.__exit__(None, None, None)
        for member in [*self.pool.members(), *self.removed, *self.replaced]:
            assert (member.requests, member.sequences) == (0, 0)
        self.now += 1e6
        self.pool.candidates(Facts())
        for member in self.pool.members():
            assert member.available <= (member.waiting_tokens == 0)
        assert self.pool.in_flight == 0
        self.runner.close()

    # what may happen

    @rule(wanted=ENDPOINTS)
    def discovery_says_what_exists(self, wanted: dict[str, tuple[str, State, str]]) -> None:
        before = {member.name: member for member in self.pool.members()}
        endpoints = tuple(Endpoint(name, address, life, state) for name, (life, state, address) in wanted.items())

        async def sync() -> None:
            self.pool.sync(EndpointSet(self.pool.generation + 1, endpoints))

        self.runner.run(sync())
        assert {member.endpoint for member in self.pool.members()} == set(endpoints)
        after = {member.name: member for member in self.pool.members()}
        for name, member in before.items():
            same = name in after and (member.endpoint.address, member.endpoint.incarnation) == (
                after[name].endpoint.address,
                after[name].endpoint.incarnation,
            )
            assert (after.get(name) is member) == same, "another engine is another member"
            if not same:
                assert not member.available
                (self.replaced if name in after else self.removed).append(member)

    @precondition(lambda self: self.pool.members())
    @rule(data=st.data(), healthy=st.booleans(), certain=st.booleans(), models=MODELS)
    def a_probe_sees(self, data: st.DataObject, healthy: bool, certain: bool, models: frozenset[str]) -> None:
        member = data.draw(st.sampled_from(self.pool.members()))
        before, failed, lives = member.healthy, member.failed_probes, member.lives
        seen = Seen(healthy, certain, models if healthy else None)

        async def observe() -> None:
            self.pool.observe(member.name, member.endpoint.incarnation, seen)

        self.runner.run(observe())
        assert member.probed
        assert member.healthy == (healthy or (before and not certain and failed + 1 < FAILED_PROBES))
        assert member.lives == lives + (healthy and not before)

    @precondition(lambda self: self.pool.members())
    @rule(data=st.data())
    def a_probe_of_an_engine_that_is_gone_changes_nothing(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(self.pool.members()))
        before = (member.healthy, member.probed, member.lives)

        async def observe() -> None:
            self.pool.observe(member.name, "another life", Seen(healthy=not member.healthy, certain=True))
            self.pool.observe("nobody", "", Seen(healthy=True, certain=True))

        self.runner.run(observe())
        assert (member.healthy, member.probed, member.lives) == before

    @rule(facts=FACTS, tried=st.sets(st.sampled_from("0123")), policy=st.sampled_from(Policy))
    def a_request_comes(self, facts: Facts, tried: set[str], policy: Policy) -> None:
        candidates = self.pool.candidates(facts, tried)
        choice = self.routers[policy].choose(candidates, facts)
        available = [member for member in self.pool.members() if member.available]
        if choice is None:
            fit = [one for one in available if one.name not in tried]
            assert not fit or self.pool.several_models or any(one.ejected_until > self.now for one in fit)
            return
        member = choice.picked
        assert member in available and self.pool.member(member.name) is member
        assert member.name not in tried
        assert not self.pool.several_models or facts.model in member.models
        assert 0 <= choice.cached_tokens <= facts.tokens
        lease = self.pool.lease(member, facts, reason=choice.reason, cached_tokens=choice.cached_tokens)
        lease.__enter__()
        self.leases.append((lease, facts))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def an_answer_begins(self, data: st.DataObject) -> None:
        lease, _ = data.draw(st.sampled_from(self.leases))
        lease.answering()

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def a_request_ends(self, data: st.DataObject) -> None:
        lease, _ = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        lease.__exit__(None, None, None)

    @precondition(lambda self: self.pool.members())
    @rule(data=st.data())
    def a_connection_fails(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(self.pool.members()))
        self.pool.not_connected(member)
        assert self.now < member.ejected_until <= self.now + EJECT_MOST_SECONDS

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    # what is always true

    @invariant()
    def the_ready_are_available_or_else_the_unready_that_live(self) -> None:
        healthy = [member for member in self.pool.members() if member.healthy]
        ready = [member for member in healthy if member.endpoint.state is State.READY]
        unready = [member for member in healthy if member.endpoint.state is State.UNREADY]
        assert [member for member in self.pool.members() if member.available] == (ready or unready)

    @invariant()
    def loads_are_those_of_the_leases(self) -> None:
        for member in [*self.pool.members(), *self.removed, *self.replaced]:
            held = [facts for lease, facts in self.leases if lease.member is member]
            assert member.requests == len(held)
            assert member.sequences == sum(facts.sequences for facts in held)
            assert 0 <= member.waiting_tokens <= sum(facts.tokens for facts in held)

    @invariant()
    def in_flight_counts_the_engines_that_may_answer(self) -> None:
        members = [*self.pool.members(), *self.removed]
        assert self.pool.in_flight == sum(any(lease.member is m for m in members) for lease, _ in self.leases)

    @invariant()
    def only_the_available_are_candidates_and_ejections_bury_nobody(self) -> None:
        available = [member for member in self.pool.members() if member.available]
        assert self.pool.available == bool(available)
        if not self.pool.several_models:
            candidates = self.pool.candidates(Facts())
            assert len(candidates) >= len(available) / 2
            assert all(member in available for member in candidates)


TestHappenings = Happenings.TestCase
TestHappenings.settings = settings(max_examples=60, stateful_step_count=30)


@pytest.fixture
async def pool() -> Pool:
    return Pool(connect_seconds=1, clock=lambda: 0.0)


def serving(pool: Pool, number: int) -> list[Member]:
    """Make the pool one of so many healthy endpoints."""
    pool.sync(EndpointSet(1, tuple(Endpoint(str(name), f"h:{name + 1}") for name in range(number))))
    for member in pool.members():
        pool.observe(member.name, "", Seen(healthy=True, certain=True, models=frozenset({"m"})))
    return pool.members()


async def test_a_failed_connection_leaves_its_endpoint_out_but_not_most_of_them(pool: Pool) -> None:
    members = serving(pool, 4)
    pool.not_connected(members[0])
    pool.not_connected(members[1])
    assert pool.candidates(Facts()) == members[2:]
    pool.not_connected(members[2])
    assert pool.candidates(Facts()) == members, "so many at once are not believed"


async def test_a_prompt_waits_until_its_answer_begins_or_until_it_should_have_been_read() -> None:
    clock = [0.0]
    pool = Pool(connect_seconds=1, clock=lambda: clock[0])
    (member,) = serving(pool, 1)
    tokens = int(PREFILL_TOKENS_PER_SECOND)
    with ExitStack() as leases:
        streamed = leases.enter_context(pool.lease(member, Facts(stream=True, tokens=tokens)))
        for _ in range(2):
            leases.enter_context(pool.lease(member, Facts(stream=False, tokens=tokens)))
        assert member.waiting_tokens == 3 * tokens
        streamed.answering()
        assert member.waiting_tokens == 2 * tokens
        waited = []
        for clock[0] in (1.9, 2.1, 3.1):
            pool.candidates(Facts())
            waited.append(member.waiting_tokens // tokens)
        assert waited == [2, 1, 0], "one after the other, at the pace of an engine"
        assert member.requests == 3
    assert (member.requests, member.waiting_tokens) == (0, 0)


async def test_what_is_cached_is_not_waited_for_and_is_forgotten_with_the_engine() -> None:
    pool = Pool(connect_seconds=1, clock=lambda: 0.0)
    (member,) = serving(pool, 1)
    facts = Facts(stream=True, tokens=9_000, blocks=[1, 2, 3], block_tokens=3_000)
    with pool.lease(member, facts, reason="prefix 0.67", cached_tokens=6_000) as lease:
        assert member.waiting_tokens == 3_000
        assert lease.answer_lines() == b"x-dp-vllm-replica: 0\r\nx-dp-vllm-reason: prefix 0.67\r\n"
    assert member.remembered.depth([1, 2, 3]) == 3
    pool.observe("0", "", Seen(healthy=False, certain=True))
    pool.observe("0", "", Seen(healthy=True, certain=True))
    assert member.remembered.depth([1, 2, 3]) == 0, "the engine was started again"


@pytest.mark.parametrize(
    "said",
    [
        b'block_size="16",engine="0",num_gpu_blocks="6400"',
        b'_block_size_resolved="True",block_size="16",effective_attention_block_size="32",num_gpu_blocks="6400"',
        b'block_size="16",kv_cache_size_tokens="102400",num_gpu_blocks="25600",num_gpu_blocks_override="None"',
        b'block_size="16",kv_cache_size_tokens="None",num_gpu_blocks="6400"',
    ],
)
async def test_as_much_is_remembered_as_the_engine_says_that_its_cache_holds(pool: Pool, said: bytes) -> None:
    (member,) = serving(pool, 1)
    before = member.remembered.capacity
    scrape = b"vllm:cache_config_info{%b} 1.0\n" % said
    pool.observe("0", "", Seen(healthy=True, certain=True, scrape=scrape))
    assert member.remembered.capacity == 6400 * 16 // 256 < before
    for _ in range(50):
        pool.token_ratio.learn(10_000, 20_000)
    pool.observe("0", "", Seen(healthy=True, certain=True, scrape=b""))
    assert member.remembered.capacity == pytest.approx(200, abs=3), "a token has fewer bytes than was thought"


@pytest.mark.parametrize("size", ["0", f"{2**31}", f"{2**64}", "1" + "0" * 400, "9" * 5000, "0" * 5000 + "16"])
@pytest.mark.parametrize("said", ['kv_cache_size_tokens="{}"', 'block_size="{0}",num_gpu_blocks="{0}"'])
async def test_no_size_of_a_cache_is_beyond_what_can_be_remembered(pool: Pool, said: str, size: str) -> None:
    (member,) = serving(pool, 1)
    scrape = b"vllm:cache_config_info{%b} 1.0\n" % said.format(size).encode()
    pool.observe("0", "", Seen(healthy=True, certain=True, scrape=scrape))
    assert 0 <= member.remembered.capacity <= MOST_CACHE_TOKENS


async def test_an_engine_s_speed_is_learned_from_prompts_that_it_reads_alone() -> None:
    clock = [1.0]
    pool = Pool(connect_seconds=1, clock=lambda: clock[0])
    (member,) = serving(pool, 1)
    long = Facts(stream=True, tokens=10 * LEARN_FROM_TOKENS)
    for facts in (Facts(stream=True, tokens=LEARN_FROM_TOKENS - 1), Facts(tokens=LEARN_FROM_TOKENS)):
        with pool.lease(member, facts) as lease:
            clock[0] += 0.001
            lease.answering()
        assert member.tokens_per_second == PREFILL_TOKENS_PER_SECOND, "too short, or nobody saw the first token"
    with pool.lease(member, long) as first, pool.lease(member, long) as second:
        clock[0] += 2 * long.tokens / PREFILL_TOKENS_PER_SECOND
        first.answering()
        slower = member.tokens_per_second
        assert slower < PREFILL_TOKENS_PER_SECOND
        second.answering()
        assert member.tokens_per_second == slower, "it had to wait for the first"
    with pool.lease(member, long):
        clock[0] += 100
    assert member.tokens_per_second == slower, "its client left before the answer began"


async def test_one_that_has_just_begun_is_not_given_everything_at_once() -> None:
    clock = [100.0]
    pool = Pool(connect_seconds=1, clock=lambda: clock[0])
    first, second = serving(pool, 2)
    assert (first.handicap, second.handicap) == (0, 0), "all have just begun"
    clock[0] += SLOW_START_SECONDS
    pool.tick()
    with ExitStack() as leases:
        for _ in range(40):
            leases.enter_context(pool.lease(first, Facts()))
        pool.observe("1", "", Seen(healthy=False, certain=True))
        pool.observe("1", "", Seen(healthy=True, certain=True))
        seen = []
        for _ in range(4):
            seen.append(second.handicap)
            clock[0] += SLOW_START_SECONDS / 4
            pool.tick()
        assert seen == [40, 30, 20, 10]
        assert (first.handicap, second.handicap) == (0, 0)


async def test_it_has_looked_once_all_that_were_ready_at_first_were_looked_at(pool: Pool) -> None:
    ready, unready = Endpoint("0", "h:1"), Endpoint("1", "h:2", state=State.UNREADY)
    assert not pool.looked
    pool.sync(EndpointSet(1, (ready, unready)))
    assert not pool.looked and pool.unseen() == ["0"]
    pool.observe("1", "", Seen(healthy=True, certain=True))
    assert not pool.looked
    pool.observe("0", "", Seen(healthy=False, certain=False))
    assert pool.looked
    pool.sync(EndpointSet(2, (ready, unready, Endpoint("2", "h:3"))))
    assert pool.looked and pool.unseen() == ["2"], "a new one does not make it begin again"


async def test_an_endpoint_that_left_is_forgotten_with_its_last_request(pool: Pool) -> None:
    (member,) = serving(pool, 1)
    with pool.lease(member, Facts()):
        pool.sync(EndpointSet(2, (), "nobody is left"))
        assert not member.available and not pool.available
        assert (pool.in_flight, pool.members(), pool.why_none) == (1, [], "nobody is left")
        pool.tick()
        assert pool.in_flight == 1
    pool.tick()
    assert pool.in_flight == 0


async def test_one_can_wait_for_the_last_request(pool: Pool) -> None:
    (member,) = serving(pool, 1)
    with pool.lease(member, Facts()):
        waiting = asyncio.ensure_future(pool.idle())
        await asyncio.sleep(0)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 5)
