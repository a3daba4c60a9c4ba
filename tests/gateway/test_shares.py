"""What one key may take of something that all keys share."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dp_vllm_gateway.shares import may_take


@given(st.integers(1, 1_000), st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1_000))))
def test_no_key_takes_more_than_it_leaves_to_a_new_one(most: int, takes: list[tuple[str, int]]) -> None:
    taken = Counter[str]()
    for key, size in takes:
        free = most - taken.total()
        allowed = may_take(size, taken[key], taken.total(), most)
        assert not allowed or taken[key] + size <= free
        assert allowed or taken[key] or size > free, "a key that has nothing may have all that is free"
        taken[key] += size * allowed
    assert taken.total() <= most


def test_many_small_pieces_come_to_half_of_all() -> None:
    own = 0
    while may_take(1, own, own, 1_000):
        own += 1
    assert own == 500
