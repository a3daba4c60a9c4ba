"""Which endpoint is chosen, by what is known of each."""

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm.policy import PREFIX_WEIGHT, Policy
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.routing.choice import Choice
from dp_vllm_gateway.routing.load import PREFILL_TOKENS_PER_SECOND, STEP_SECONDS
from dp_vllm_gateway.routing.remembered import Remembered
from dp_vllm_gateway.routing.router import BOUND, Router, least

STEP = int(PREFILL_TOKENS_PER_SECOND * STEP_SECONDS)
"""Tokens that an engine reads in one step."""

BLOCK = 256
"""Tokens of a block here."""


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    name: str
    waiting_tokens: int = 0
    sequences: int = 0
    handicap: int = 0
    tokens_per_second: float = PREFILL_TOKENS_PER_SECOND
    remembered: Remembered = field(default_factory=lambda: Remembered(1000))

    def after(self, *blocks: int) -> "Endpoint":
        self.remembered.add(blocks)
        return self


def endpoints(*loads: tuple[int, int]) -> list[Endpoint]:
    return [Endpoint(str(number), tokens, sequences) for number, (tokens, sequences) in enumerate(loads)]


def router(policy: Policy) -> Router:
    return Router(policy, rng=random.Random(1))


def prompt(*blocks: int) -> Facts:
    return Facts(tokens=BLOCK * len(blocks), blocks=list(blocks), block_tokens=BLOCK)


def chosen(policy: Policy, candidates: list[Endpoint], facts: Facts | None = None) -> Choice[Endpoint]:
    choice = router(policy).choose(candidates, facts or Facts())
    assert choice is not None
    return choice


LOADS = st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 100)), min_size=1, max_size=8)
FACTS = st.sampled_from([Facts(), Facts(affinity=7), prompt(1, 2, 3)])


@pytest.mark.parametrize(
    ("loads", "best"),
    [
        ([(0, 0), (0, 0)], "01"),
        ([(0, 1), (0, 0)], "1"),
        ([(10 * STEP, 0), (0, 99)], "1"),
        ([(STEP - 1, 1), (0, 2)], "0"),
        ([(STEP, 1), (STEP - 1, 2)], "1"),
        ([(5 * STEP, 3), (5 * STEP + 1, 3), (6 * STEP, 0)], "01"),
        ([(0, 4), (0, 4), (0, 5), (0, 4)], "013"),
    ],
)
def test_the_least_wait_wins_then_the_fewest_sequences(loads: list[tuple[int, int]], best: str) -> None:
    assert "".join(endpoint.name for endpoint in least(endpoints(*loads))) == best


@pytest.mark.parametrize("policy", [Policy.PREFIX, Policy.LEAST_LOAD])
@pytest.mark.parametrize("facts", [Facts(), prompt(1, 2)])
def test_a_handicap_counts_as_sequences(policy: Policy, facts: Facts) -> None:
    fresh, old = Endpoint("0", handicap=30), Endpoint("1", sequences=20)
    assert chosen(policy, [fresh, old], facts).picked is old
    fresh = Endpoint("0", handicap=10)
    assert chosen(policy, [fresh, old], facts).picked is fresh


def test_the_same_queue_is_a_shorter_wait_at_a_faster_engine() -> None:
    slow = Endpoint("slow", 10 * STEP)
    fast = Endpoint("fast", 20 * STEP, tokens_per_second=4 * PREFILL_TOKENS_PER_SECOND)
    assert least([slow, fast]) == [fast]


@given(LOADS, st.integers(0, 100))
def test_what_is_picked_is_one_of_the_least_loaded(loads: list[tuple[int, int]], turns: int) -> None:
    candidates = endpoints(*loads)
    one = router(Policy.LEAST_LOAD)
    picked = [one.choose(candidates, Facts()) for _ in range(turns + 1)][-1]
    assert picked is not None

    def load(endpoint: Endpoint) -> tuple[int, int]:
        return int(endpoint.waiting_tokens / (PREFILL_TOKENS_PER_SECOND * STEP_SECONDS)), endpoint.sequences

    assert load(picked.picked) == min(map(load, candidates))


TAKING_TURNS = [Policy.PREFIX, Policy.LEAST_LOAD, Policy.ROUND_ROBIN, Policy.SESSION, Policy.CONSISTENT_HASH]


@given(st.integers(1, 8), st.sampled_from(TAKING_TURNS), st.sampled_from([Facts(), prompt(1, 2)]))
def test_ties_take_turns(number: int, policy: Policy, facts: Facts) -> None:
    candidates = endpoints(*[(0, 0)] * number)
    one = router(policy)
    counted = Counter(choice.picked for _ in range(3 * number) if (choice := one.choose(candidates, facts)))
    assert set(counted.values()) == {3} and len(counted) == number


@given(LOADS, st.sampled_from(Policy), FACTS)
def test_whatever_the_policy_one_of_the_candidates_is_chosen(
    loads: list[tuple[int, int]], policy: Policy, facts: Facts
) -> None:
    candidates = endpoints(*loads)
    choice = chosen(policy, candidates, facts)
    assert choice.picked in candidates and choice.reason and choice.cached_tokens == 0


@given(LOADS)
def test_round_robin_minds_no_load(loads: list[tuple[int, int]]) -> None:
    candidates = endpoints(*loads)
    one = router(Policy.ROUND_ROBIN)
    picked = [choice.picked for _ in candidates if (choice := one.choose(candidates, Facts()))]
    assert sorted(picked, key=candidates.index) == candidates


@pytest.mark.parametrize("policy", Policy)
def test_of_nothing_nothing_is_picked(policy: Policy) -> None:
    assert router(policy).choose([], Facts()) is None


# prefix


def test_a_prompt_goes_where_its_beginning_was_sent() -> None:
    first, second = Endpoint("0"), Endpoint("1").after(1, 2, 3)
    choice = chosen(Policy.PREFIX, [first, second], prompt(1, 2, 3, 4))
    assert (choice.picked, choice.reason, choice.cached_tokens) == (second, "prefix 0.75", 3 * BLOCK)


def test_the_longest_beginning_wins() -> None:
    some, more, other = Endpoint("0").after(1, 2), Endpoint("1").after(1, 2, 3, 4), Endpoint("2").after(9, 2, 3, 4, 5)
    assert chosen(Policy.PREFIX, [some, more, other], prompt(1, 2, 3, 4, 5)).picked is more


def test_what_is_saved_is_weighed_against_the_wait() -> None:
    worth = int(PREFIX_WEIGHT * 3 * BLOCK)
    blocks = prompt(1, 2, 3)
    near = Endpoint("0", worth - 2 * STEP).after(1, 2, 3)
    far = Endpoint("0", worth + 2 * STEP).after(1, 2, 3)
    free = Endpoint("1")
    assert chosen(Policy.PREFIX, [near, free], blocks).picked is near
    choice = chosen(Policy.PREFIX, [far, free], blocks)
    assert (choice.picked, choice.reason, choice.cached_tokens) == (free, "least-load", 0)


def test_a_short_common_beginning_is_no_reason_to_send_everybody_to_one() -> None:
    worth_seconds = PREFIX_WEIGHT * BLOCK / PREFILL_TOKENS_PER_SECOND
    crowd = int(worth_seconds / STEP_SECONDS) + 5
    crowded, empty = Endpoint("0", sequences=crowd).after(1), Endpoint("1")
    assert chosen(Policy.PREFIX, [crowded, empty], prompt(1, 2)).picked is empty


@given(LOADS)
def test_with_nothing_shared_a_prompt_waits_as_little_as_can_be(loads: list[tuple[int, int]]) -> None:
    candidates = endpoints(*loads)

    def wait(endpoint: Endpoint) -> float:
        return endpoint.waiting_tokens / PREFILL_TOKENS_PER_SECOND + STEP_SECONDS * endpoint.sequences

    picked = chosen(Policy.PREFIX, candidates, prompt(1, 2, 3)).picked
    assert wait(picked) <= min(map(wait, candidates)) + STEP_SECONDS


# affinities


@given(LOADS, st.integers(1, 2**64 - 1), st.permutations(range(8)))
def test_a_session_stays_whatever_the_load_and_the_order(
    loads: list[tuple[int, int]], session: int, order: list[int]
) -> None:
    facts = Facts(affinity=session)
    candidates = endpoints(*loads)
    others = [candidates[at] for at in order if at < len(candidates)]
    picked = chosen(Policy.SESSION, candidates, facts).picked
    assert chosen(Policy.SESSION, others, facts).picked is picked
    left = [one for one in candidates if one is not picked]
    if left:
        stays = [s for s in range(1, 50) if chosen(Policy.SESSION, candidates, Facts(affinity=s)).picked is not picked]
        for s in stays:
            before = chosen(Policy.SESSION, candidates, Facts(affinity=s)).picked
            assert chosen(Policy.SESSION, left, Facts(affinity=s)).picked is before, "only the lost one's move"


def test_sessions_are_spread() -> None:
    candidates = endpoints(*[(0, 0)] * 4)
    counted = Counter(chosen(Policy.SESSION, candidates, Facts(affinity=s)).picked for s in range(1, 1001))
    assert min(counted.values()) > 200


@given(LOADS, st.integers(1, 2**64 - 1))
def test_a_consistent_hash_passes_over_those_with_too_much(loads: list[tuple[int, int]], affinity: int) -> None:
    candidates = endpoints(*loads)
    picked = chosen(Policy.CONSISTENT_HASH, candidates, Facts(affinity=affinity)).picked
    mean = (sum(one.sequences for one in candidates) + 1) / len(candidates)
    assert picked.sequences <= BOUND * mean


def test_the_better_of_two_is_never_the_worst_of_three() -> None:
    candidates = endpoints((0, 0), (0, 1), (0, 2))
    one = router(Policy.POWER_OF_TWO)
    counted = Counter(choice.picked.name for _ in range(300) if (choice := one.choose(candidates, Facts())))
    assert set(counted) == {"0", "1"} and counted["0"] > counted["1"]
