"""What arrives on a worker's socket: messages of the other workers and their parent, and nothing else."""

import socket
from collections.abc import Iterator

import pytest

from dp_vllm_gateway.listeners import Listeners
from dp_vllm_gateway.workers import news
from dp_vllm_gateway.workers.datagrams import Datagrams
from dp_vllm_gateway.workers.news import Load, News, Standing
from dp_vllm_gateway.workers.place import Place

GARBAGE = (
    *(b"", b"\xc1", b"\x93", b"\x93\x01\xc0\xdd\xff\xff\xff\xff", b"\x93\x01\xc0" + b"\x91" * 100_000, b"x" * 200_000),
    news.datagram(7, Standing(), []),
    news.datagram(news.PARENT, Standing(), []),
    news.datagram(1, Standing(in_flight=-1), []),
    news.datagram(1, Standing(loads=(Load("0", "", 0, 1 << 54, 0),)), []),
    news.datagram(1, Standing(loads=(Load("a" * 300, "", 0, 0, 0),)), []),
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    inbox, outbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with inbox, outbox:
        inbox.setblocking(False)
        yield inbox, outbox


async def test_what_cannot_be_read_is_dropped_and_counted_and_what_follows_is_read(
    pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    inbox, outbox = pair
    wires = Datagrams(Place(0, inbox, {1: outbox}, Listeners([], None, None), 0))
    for number, garbage in enumerate(GARBAGE, 1):
        outbox.send(garbage)
        outbox.send(news.datagram(1, Standing(queued=number), news.written(news.Forgotten())))
        assert wires.receive() == [News(1, Standing(queued=number), [news.Forgotten()])]
        assert wires.errors.count == number
    kinds = {record.message.split(":")[1] for record in caplog.records}
    assert len(caplog.records) == len(kinds) < len(GARBAGE), "one line for each kind"
