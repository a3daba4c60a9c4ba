"""The connections between gateways: who is connected, what is taken, and when one ends."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import programs
from replica_pods import address

from dp_vllm import names
from dp_vllm_gateway.peers import frames
from dp_vllm_gateway.peers.streams import Streams
from dp_vllm_gateway.workers import news
from dp_vllm_gateway.workers.news import Fact, News, Standing

SENT = news.Sent("m-1-0", "uid", [1, 2, 3])


@dataclass(slots=True)
class End:
    """A gateway's connections, and what it has heard on them."""

    streams: Streams
    heard: list[News] = field(default_factory=list)
    greetings: int = 0

    def hear(self, heard: Sequence[News]) -> None:
        self.heard += heard

    def greet(self) -> None:
        self.greetings += 1

    def facts(self) -> list[Fact]:
        return [fact for said in self.heard for fact in said.facts]

    def tell(self, fact: Fact) -> bool:
        (other,) = self.streams.others()
        return self.streams.send(other, news.datagram(9, Standing(), news.written(fact)))


@contextlib.asynccontextmanager
async def end(ip: str, *known: str, dead_seconds: float = 60.0) -> AsyncIterator[End]:
    """The connections of the gateway at that address, which knows these others."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.create_server((ip, names.PEER_PORT), family=family, dualstack_ipv6=":" in ip) as listener:
        made = End(Streams(ip, names.PEER_PORT, dead_seconds=dead_seconds))
        made.streams.open(made.hear, made.greet)
        made.streams.sync([ip, *known])
        running = asyncio.create_task(made.streams.run(listener))
        try:
            yield made
        finally:
            running.cancel()
            await asyncio.wait([running])


async def until(condition: object, what: str) -> None:
    assert callable(condition)
    async with asyncio.timeout(programs.START_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what


async def test_gateways_with_addresses_of_ipv6_are_connected() -> None:
    one, two = f"::ffff:{address()}", f"::ffff:{address()}"
    async with end(one, two) as first, end(two, one) as second:
        await until(lambda: (first.streams.count(), second.streams.count()) == (1, 1), "both are connected")
        assert first.tell(SENT)
        await until(lambda: second.facts() == [SENT], "what is told arrives")


async def test_each_two_have_one_connection_and_what_is_told_arrives() -> None:
    ips = [address(), address(), address()]
    async with end(ips[0], *ips[1:]) as one, end(ips[1], *ips[:1], ips[2]) as two, end(ips[2], *ips[:2]) as three:
        ends = (one, two, three)
        await until(lambda: all(each.streams.count() == 2 for each in ends), "all are connected")
        assert [each.greetings for each in ends] == [2, 2, 2]
        for other in two.streams.others():
            assert two.streams.send(other, news.datagram(9, Standing(queued=3), news.written(SENT)))
        await until(lambda: one.facts() == three.facts() == [SENT], "both others hear it")
        assert not two.heard
        assert one.heard[0].worker in one.streams.others(), "by its number here, whatever it says"
        two.streams.sync(ips[:2])
        await until(lambda: three.streams.count() == 1, "the third is a gateway no more")
        assert isinstance(three.facts()[-1], news.Died) and isinstance(two.facts()[-1], news.Died)


async def test_who_does_not_read_takes_no_more_until_it_reads_again() -> None:
    ips = sorted([address(), address()], key=socket.inet_aton)
    async with end(ips[0], ips[1]) as one:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.bind((ips[1], 0))
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(slow, (ips[0], names.PEER_PORT))
            await loop.sock_sendall(slow, b"dp-vllm gateway, peers 1\n")
            await until(lambda: one.streams.count() == 1, "it has greeted")
            taken = 0
            while one.tell(SENT):
                taken += 1
            assert taken > 10 and not one.tell(SENT)
            (stream,) = one.streams._of.values()
            assert len(stream._unsent) < 100, "what is held is less than one frame"
            frame = len(news.datagram(9, Standing(), news.written(SENT))) + 4
            left = len(b"dp-vllm gateway, peers 1\n") + taken * frame
            while left:
                left -= len(await loop.sock_recv(slow, left))
            assert one.tell(SENT), "there is room again"


async def test_one_that_is_silent_is_given_up_and_connected_again() -> None:
    ips = [address(), address()]
    async with end(ips[0], ips[1], dead_seconds=0.2) as one, end(ips[1], ips[0]) as other:
        await until(lambda: one.greetings >= 2, "it was given up, and is connected again")
        assert any(isinstance(fact, news.Died) for fact in one.facts())
        await until(lambda: any(isinstance(fact, news.Died) for fact in other.facts()), "the other sees that too")


async def test_one_that_speaks_garbage_is_connected_again_ever_later() -> None:
    ips = sorted([address(), address()], key=socket.inet_aton)
    times: list[float] = []
    loop = asyncio.get_running_loop()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        times.append(loop.time())
        writer.write(frames.GREETING + frames.framed(b"garbage"))
        await reader.read()
        writer.close()

    async with await asyncio.start_server(accept, ips[0], names.PEER_PORT), end(ips[1], ips[0]) as one:
        await until(lambda: len(times) == 3, "it has tried three times")
        assert one.streams.errors.count >= 2
    first, second = times[1] - times[0], times[2] - times[1]
    assert first > 0.4 and second > 0.9, "in seconds: half of one, then one"
