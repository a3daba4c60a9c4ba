"""What is measured of one gateway: requests one after the other, streams side by side, and requests at a set pace.

Each begins with a warm-up that is not counted. Work is counted by the clients and CPU time read at the same moment.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bench.load import Address, Caller, Failed, Window, callers, chat, readers
from bench.pace import Alarm

CPU = Callable[[], float]
"""The gateway's CPU time so far, in seconds."""

LATENCY_CONNECTIONS: Final = 256
"""Open connections for paced requests: more than can be under way unless the gateway cannot keep the pace."""


@dataclass(frozen=True, slots=True)
class Duration:
    """How long a measurement takes."""

    warm_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Latency:
    """How long answers took, measured from when each request was due."""

    p50_seconds: float
    p99_seconds: float
    window: Window


class _Marks:
    """Takes the two marks of a window."""

    def __init__(self, work: Callable[[], int], cpu: CPU) -> None:
        self._work, self._cpu = work, cpu

    def _take(self) -> tuple[int, float, float]:
        return self._work(), self._cpu(), time.monotonic()

    async def window(self, duration: Duration) -> Window:
        await asyncio.sleep(duration.warm_seconds)
        begun = self._take()
        await asyncio.sleep(duration.seconds)
        ended = self._take()
        work, cpu, wall = (last - first for first, last in zip(begun, ended, strict=True))
        if not work:
            raise Failed("no work was done in the measured time")
        return Window(int(work), cpu, wall)


async def requests(address: Address, request: bytes, connections: int, cpu: CPU, duration: Duration) -> Window:
    """Every connection sends its next request as soon as it has its answer."""
    done = 0

    def again(caller: Caller) -> None:
        nonlocal done
        done += 1
        caller.send()

    async with callers(address, request, connections, again) as opened:
        for caller in opened:
            caller.send()
        window = await _Marks(lambda: done, cpu).window(duration)
        for caller in opened:
            if caller.failure.done():
                caller.failure.result()
        return window


async def streams(address: Address, request: bytes, count: int, cpu: CPU, duration: Duration) -> Window:
    """Streams that outlast the window; what is counted are chunks."""
    async with readers(address, request, count) as opened:
        window = await _Marks(lambda: sum(reader.chunks for reader in opened), cpu).window(duration)
        broken = sum(reader.ended.done() for reader in opened)
        if broken:
            raise Failed(f"{broken} of {count} streams ended before their time")
        return window


async def latency(address: Address, request: bytes, per_second: float, cpu: CPU, duration: Duration) -> Latency:
    """Requests at random moments, `per_second` of them on average, whether earlier ones are answered or not."""
    idle: deque[Caller] = deque()
    took: list[float] = []
    rng = random.Random(1)

    def answered(caller: Caller) -> None:
        took.append(time.monotonic() - caller.sent_at)
        idle.append(caller)

    def send(due: float) -> float:
        if not idle:
            raise Failed(f"the gateway cannot keep the pace of {per_second:.0f} requests/s")
        caller = idle.popleft()
        caller.sent_at = due
        caller.send()
        return due + rng.expovariate(per_second)

    async with callers(address, request, LATENCY_CONNECTIONS, answered) as opened:
        idle.extend(opened)
        with Alarm(send) as alarm:
            await asyncio.sleep(duration.warm_seconds)
            took.clear()
            window = await _Marks(lambda: len(took), cpu).window(Duration(0, duration.seconds))
            alarm.check()
    took.sort()
    return Latency(took[len(took) // 2], took[len(took) * 99 // 100], window)


@dataclass(frozen=True, slots=True)
class ManyStreams:
    """Streams that all ran to their end, side by side."""

    streams: int
    broken: int
    """Ended without their last event, or with another number of chunks than was asked for."""
    resident_before_bytes: int
    resident_during_bytes: int
    in_flight_during: int | None
    in_flight_after: int | None
    """What the gateway says; None if it does not say."""
    window: Window

    @property
    def bytes_per_stream(self) -> float:
        return (self.resident_during_bytes - self.resident_before_bytes) / self.streams


@dataclass(frozen=True, slots=True)
class Observer:
    """What can be asked of a gateway from outside."""

    cpu: CPU
    resident_bytes: Callable[[], int]
    in_flight: Callable[[], int | None]


async def many_streams(address: Address, count: int, tokens: int, seconds: float, observer: Observer) -> ManyStreams:
    """Open `count` streams of `tokens` chunks each and read them all to the end; `seconds` is how long one takes."""
    before = observer.resident_bytes()
    request = chat(200, stream=True, max_tokens=tokens)
    async with readers(address, request, count) as opened:
        marks = _Marks(lambda: sum(reader.chunks for reader in opened), observer.cpu)
        window = await marks.window(Duration(0, seconds / 2))
        during, in_flight = observer.resident_bytes(), observer.in_flight()
        async with asyncio.timeout(3 * seconds + 10):
            ended = await asyncio.gather(*(reader.ended for reader in opened))
        whole = sum(well and reader.chunks == tokens for well, reader in zip(ended, opened, strict=True))
        return ManyStreams(count, count - whole, before, during, in_flight, observer.in_flight(), window)
