"""How slowly a request's body may come, in simulated time."""

import asyncio

import pytest
import simulated_time
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol

from dp_vllm_gateway.body import Bodies
from dp_vllm_gateway.config import Limits
from dp_vllm_gateway.replies import Refusal

LIMITS = Limits(body_idle_seconds=2.0)


def status_of(*pieces: tuple[float, int]) -> int:
    """The status for a body whose pieces come so many seconds after one another, with so many bytes each."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        client = BaseProtocol(loop)
        client.connection_made(asyncio.Transport())
        content, bodies = StreamReader(client, 1 << 20, loop=loop), Bodies(LIMITS)
        reading = asyncio.ensure_future(bodies.read(content, ""))
        for seconds, size in pieces:
            await asyncio.wait([reading], timeout=seconds)
            content.feed_data(bytes(size))
        content.feed_eof()
        try:
            body = await reading
        except Refusal as refusal:
            assert not bodies.held_bytes
            return refusal.status
        assert len(body) == bodies.held_bytes == sum(size for _, size in pieces)
        return 200

    return simulated_time.run(main())


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        (((0.9, 1000),) * 60, 200),
        (((1.9, 10_000),) * 60, 200),
        (((1.4, 1000),) * 2, 200),
        (((1.5, 1000),) * 60, 408),
        (((1.9, 1),) * 60, 408),
        (((0.0, 100_000), (2.1, 1000)), 408),
        (((0.0, 100_000), *((1.5, 1000),) * 60), 408),
    ],
    ids=[
        "fast enough",
        "large pieces",
        "a short body",
        "too slow",
        "a byte at a time",
        "stops",
        "ahead, then too slow",
    ],
)
def test_a_body_may_take_as_long_as_its_rate_is_kept(pieces: tuple[tuple[float, int], ...], status: int) -> None:
    assert status_of(*pieces) == status
