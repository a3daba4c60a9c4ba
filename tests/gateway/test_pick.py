"""Which endpoint is chosen, by what is known of each."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm_gateway.pick import PREFILL_TOKENS_PER_SECOND, STEP_SECONDS, Policy, least, pick

STEP = int(PREFILL_TOKENS_PER_SECOND * STEP_SECONDS)
"""Tokens that an engine reads in one step."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    name: int
    waiting_tokens: int = 0
    sequences: int = 0


def endpoints(*loads: tuple[int, int]) -> list[Endpoint]:
    return [Endpoint(number, tokens, sequences) for number, (tokens, sequences) in enumerate(loads)]


LOADS = st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 100)), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("loads", "best"),
    [
        ([(0, 0), (0, 0)], [0, 1]),
        ([(0, 1), (0, 0)], [1]),
        ([(10 * STEP, 0), (0, 99)], [1]),
        ([(STEP - 1, 1), (0, 2)], [0]),
        ([(STEP, 1), (STEP - 1, 2)], [1]),
        ([(5 * STEP, 3), (5 * STEP + 1, 3), (6 * STEP, 0)], [0, 1]),
        ([(0, 4), (0, 4), (0, 5), (0, 4)], [0, 1, 3]),
    ],
)
def test_the_least_wait_wins_then_the_fewest_sequences(loads: list[tuple[int, int]], best: list[int]) -> None:
    assert [endpoint.name for endpoint in least(endpoints(*loads))] == best


@given(LOADS, st.integers(0, 10_000))
def test_what_is_picked_is_one_of_the_least_loaded(loads: list[tuple[int, int]], turn: int) -> None:
    candidates = endpoints(*loads)
    picked = pick(Policy.LEAST_LOAD, candidates, turn)
    assert picked is not None

    def load(endpoint: Endpoint) -> tuple[int, int]:
        return int(endpoint.waiting_tokens / (PREFILL_TOKENS_PER_SECOND * STEP_SECONDS)), endpoint.sequences

    assert load(picked) == min(map(load, candidates))


@given(st.integers(1, 8), st.integers(0, 10_000), st.sampled_from(Policy))
def test_ties_take_turns(number: int, turn: int, policy: Policy) -> None:
    candidates = endpoints(*[(0, 0)] * number)
    counted = Counter(pick(policy, candidates, turn + more) for more in range(3 * number))
    assert set(counted.values()) == {3} and len(counted) == number


@given(LOADS)
def test_round_robin_minds_no_load(loads: list[tuple[int, int]]) -> None:
    candidates = endpoints(*loads)
    assert [pick(Policy.ROUND_ROBIN, candidates, turn) for turn in range(len(candidates))] == candidates


@pytest.mark.parametrize("policy", Policy)
def test_of_nothing_nothing_is_picked(policy: Policy) -> None:
    assert pick(policy, [], 7) is None
