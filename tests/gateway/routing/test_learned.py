"""What answers teach."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm_gateway.routing.learned import WIDEST, TokenRatio, speed_after
from dp_vllm_gateway.routing.load import PREFILL_TOKENS_PER_SECOND

TRUE_SPEED = 2 * PREFILL_TOKENS_PER_SECOND


def test_an_engine_s_speed_is_learned_from_a_few_dozen_prompts() -> None:
    speed = PREFILL_TOKENS_PER_SECOND
    for tokens in range(2_000, 42_000, 1_000):
        speed = speed_after(speed, tokens, tokens / TRUE_SPEED)
    assert speed == pytest.approx(TRUE_SPEED, rel=0.02)


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 10**4)), max_size=100))
def test_nothing_makes_it_unbelievable(seen: list[tuple[int, float]]) -> None:
    speed = PREFILL_TOKENS_PER_SECOND
    for tokens, seconds in seen:
        speed = speed_after(speed, tokens, seconds)
    assert PREFILL_TOKENS_PER_SECOND / WIDEST <= speed <= PREFILL_TOKENS_PER_SECOND * WIDEST


def test_the_ratio_is_that_of_the_tokens_whatever_the_prompts_sizes() -> None:
    ratio = TokenRatio()
    assert ratio.value == 1
    for size in (10, 10_000, 300, 50_000) * 20:
        ratio.learn(size, size * 3 // 2)
    assert ratio.value == pytest.approx(1.5, rel=0.01)


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), max_size=100))
def test_a_ratio_is_believed_within_bounds(seen: list[tuple[int, int]]) -> None:
    ratio = TokenRatio()
    for estimated, counted in seen:
        ratio.learn(estimated, counted)
    assert 1 / WIDEST <= ratio.value <= WIDEST
