"""What workers tell each other arrives as it was told, whatever is long, and in its order."""

from collections import deque

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm_gateway.lasting import MOST_CHANGE_BYTES
from dp_vllm_gateway.workers import gossip, news
from dp_vllm_gateway.workers.gossip import Backlog
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


LOADS = st.lists(st.builds(Load, TEXTS, TEXTS, COUNTS, COUNTS, COUNTS), max_size=40).map(tuple)


@given(LOADS, st.integers(60, 2_000))
def test_a_standing_that_is_too_long_has_the_loads_with_the_most_sequences(loads: tuple[Load, ...], most: int) -> None:
    standing = Standing(1, 2, 3, loads)
    written = news.standing_written(standing, most)
    assert len(written) <= most
    read = news.read(news.datagram(1, written, [])).standing
    assert read is not None and (read.generation, read.in_flight, read.queued) == (1, 2, 3)
    left = sorted((load.sequences for load in loads), reverse=True)[len(read.loads) :]
    assert not left or min((load.sequences for load in read.loads), default=left[0]) >= left[0]
    if len(msgspec.msgpack.encode(standing)) <= most:
        assert read == standing


@pytest.mark.parametrize(
    "fact",
    [
        news.Changed("POST", "/x", b"", b"x" * (MOST_CHANGE_BYTES + 1)),
        news.Changed("POST", "/" + "x" * MOST_CHANGE_BYTES, b"", b""),
        news.Changed("X" * 17, "/x", b"", b""),
        news.Homes({f"resp_{number}": "0" for number in range(news.MOST_HOMES + 1)}),
        news.Homes({"resp_" + "x" * 300: "0"}),
        news.Counted(b"x" * (news.MOST_WHOLE_BYTES + 1)),
        news.Asked(1 << 64, "metrics", b""),
    ],
)
def test_what_the_others_would_not_read_is_not_written(fact: Fact) -> None:
    with pytest.raises((ValueError, OverflowError)):
        news.written(fact)


def test_many_small_facts_go_into_several_messages() -> None:
    waiting = deque(news.written(news.Joined()) * (news.MOST_FACTS + 1))
    assert len(news.take(waiting)) <= news.MOST_FACTS and waiting


def test_what_waits_for_one_that_does_not_read_is_bounded_and_the_oldest_goes_first() -> None:
    backlog = Backlog()
    for number in range(gossip.MOST_WAITING_BYTES // news.MOST_BYTES + 10):
        backlog.add(news.written(news.Counted(b"%d" % number + b"x" * (news.MOST_BYTES - 100))))
    first = backlog.take()
    assert msgspec.msgpack.decode(first[0], type=Fact) != news.Counted(b"0" + b"x" * (news.MOST_BYTES - 100))
    backlog.put_back(first)
    assert backlog.take() == first
    total = 0
    while some := backlog.take():
        total += sum(map(len, some))
    assert gossip.MOST_WAITING_BYTES - 3 * news.MOST_BYTES < total <= gossip.MOST_WAITING_BYTES
    backlog.add(news.written(news.Joined()) * (gossip.MOST_WAITING + 5))
    assert len(backlog._facts) == gossip.MOST_WAITING
