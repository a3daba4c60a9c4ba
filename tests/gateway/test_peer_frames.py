"""What another gateway says is taken apart as it was put together, however it arrives, and nothing else is believed."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm_gateway.peers import frames
from dp_vllm_gateway.peers.frames import GREETING, Frames, framed
from dp_vllm_gateway.workers import news
from dp_vllm_gateway.workers.news import Fact, Load, Standing


@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_frames_arrive_whole_and_in_order_however_they_are_cut(sent: list[bytes], data: st.DataObject) -> None:
    written = GREETING + b"".join(map(framed, sent))
    found, taking, start = list[bytes](), Frames(), 0
    while start < len(written):
        end = start + data.draw(st.integers(1, 200))
        found += taking.take(written[start:end])
        start = end
    assert taking.greeted and found == sent


@given(st.binary(min_size=len(GREETING)).filter(lambda said: not said.startswith(GREETING)))
def test_who_does_not_greet_is_not_listened_to(said: bytes) -> None:
    with pytest.raises(ValueError, match="it begins with"):
        Frames().take(said)


def test_a_frame_that_is_too_long_is_not_waited_for() -> None:
    taking = Frames()
    taking.take(GREETING)
    with pytest.raises(ValueError, match="a frame of"):
        taking.take((frames.MOST_BYTES + 1).to_bytes(4))


@given(st.binary(max_size=200))
def test_what_is_no_news_is_an_error_that_can_be_told(said: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert news.read_foreign(said, 1, news.Parts()).worker == 1


def test_nesting_without_end_is_no_news() -> None:
    with pytest.raises(ValueError, match="recursion"):
        news.read_foreign(b"\x93\x01\xc0" + b"\x91" * 100_000, 1, news.Parts())


SENT = news.Sent("m-1-0", "uid", [1, 2])


def test_facts_of_a_later_version_are_left_out_and_the_others_kept() -> None:
    facts = [msgspec.Raw(msgspec.msgpack.encode(one)) for one in (["melted", "m-1-0", 7], ["sent", 1], "x")]
    later = msgspec.Raw(msgspec.msgpack.encode(["sent", "m-1-0", "uid", [1, 2], {"more": "of it"}]))
    data = msgspec.msgpack.encode((0, (1, 2, 3, (), "more"), [*facts, later], "more"))
    assert news.read_foreign(data, 5, news.Parts()) == news.News(5, Standing(1, 2, 3), [SENT])


@pytest.mark.parametrize(
    "fact", [news.Died(3), news.Counted(b"x"), news.Asked(1, "metrics", b""), news.Answered(1, b"x")]
)
def test_what_only_workers_of_one_gateway_may_say_is_left_out(fact: Fact) -> None:
    (piece,) = news.written(news.Part(msgspec.msgpack.encode(fact), last=True))
    data = news.datagram(0, Standing(), [*news.written(fact), piece, *news.written(SENT)])
    assert news.read_foreign(data, 5, news.Parts()).facts == [SENT]


@pytest.mark.parametrize(
    "load", [Load("a", "1", -1, 0, 0), Load("a", "1", 0, 1 << 60, 0), Load("a" * 5000, "1", 1, 1, 1)]
)
def test_a_load_that_cannot_be_is_not_believed(load: Load) -> None:
    with pytest.raises(ValueError, match="Expected"):
        news.read_foreign(news.datagram(0, Standing(loads=(load,)), []), 5, news.Parts())


def test_a_fact_without_end_is_not_put_together() -> None:
    parts = news.Parts()
    piece = news.Part(b"x" * (news.MOST_WHOLE_BYTES // 4), last=False)
    assert parts.whole([piece] * 8) == []
    assert sum(map(len, parts._pieces)) <= news.MOST_WHOLE_BYTES
    assert parts.whole([news.Part(b"x", last=True), SENT]) == [SENT]
