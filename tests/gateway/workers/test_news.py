"""What workers tell each other arrives as it was told, whatever is long, and in its order."""

from collections import deque

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm_gateway.workers import news
from dp_vllm_gateway.workers.news import Fact, Load, Standing

TEXTS = st.text(max_size=8)
COUNTS = st.integers(0, 2**53)
BLOCKS = st.lists(st.integers(0, 2**64 - 1), max_size=20)
LONG = st.integers(news.MOST_BYTES - 10, 3 * news.MOST_BYTES).map(lambda size: news.Counted(b"x" * size))
FACTS: st.SearchStrategy[Fact] = st.one_of(
    st.builds(news.Sent, TEXTS, TEXTS, BLOCKS),
    st.builds(news.Homes, st.dictionaries(TEXTS, TEXTS, max_size=3)),
    st.just(news.Forgotten()),
    st.builds(news.Changed, TEXTS, TEXTS, st.binary(max_size=8), st.binary(max_size=8)),
    st.builds(news.Died, st.integers(0, 9)),
    st.builds(news.Asked, st.integers(0, 2**40), TEXTS, st.binary(max_size=8)),
    st.builds(news.Answered, st.integers(0, 2**40), st.binary(max_size=8)),
    LONG,
)
STANDINGS = st.builds(
    Standing,
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 9),
    st.lists(st.builds(Load, TEXTS, TEXTS, COUNTS, COUNTS, COUNTS), max_size=3).map(tuple),
)


@given(st.lists(FACTS, max_size=12), STANDINGS)
def test_all_facts_arrive_in_datagrams_that_are_not_too_long(told: list[Fact], standing: Standing) -> None:
    waiting = deque(written for fact in told for written in news.written(fact))
    parts, heard = news.Parts(), list[Fact]()
    while waiting:
        data = news.datagram(3, standing, news.take(waiting))
        assert len(data) < 2 * news.MOST_BYTES
        arrived = news.read(memoryview(data))
        assert (arrived.worker, arrived.standing) == (3, standing)
        heard += parts.whole(arrived.facts)
    assert heard == told


def test_a_fact_without_its_beginning_is_left_out() -> None:
    parts = news.Parts()
    *_, last = news.written(news.Counted(b"x" * 2 * news.MOST_BYTES))
    fact = msgspec.msgpack.decode(last, type=Fact)
    assert parts.whole([fact, news.Forgotten()]) == [news.Forgotten()]
    assert parts.whole([news.Part(b"of a former life", last=False), news.Joined()]) == [news.Joined()]
    whole = news.Counted(b"y" * 2 * news.MOST_BYTES)
    pieces = [msgspec.msgpack.decode(piece, type=Fact) for piece in news.written(whole)]
    assert parts.whole(pieces) == [whole]
