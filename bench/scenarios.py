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

from bench.cpu import CpuTime
from bench.load import Address, Caller, Failed, callers, chat, readers
from bench.pace import Alarm

Clock = Callable[[], CpuTime]
"""Reads the gateway's CPU time."""

LATENCY_CONNECTIONS: Final = 256
"""Open connections for paced requests: more than can be under way unless the gateway cannot keep the pace."""


@dataclass(frozen=True, slots=True)
class Window:
    """What was counted between two marks."""

    work: int
    """Answers, or chunks, that clients received."""
    cpu_seconds: float
    """CPU time of the gateway."""
    core_seconds: float
    """CPU time of everything on its core."""
    wall_seconds: float

    @property
    def microseconds(self) -> float:
        """CPU time for one piece of work."""
        return self.cpu_seconds / self.work * 1e6

    @property
    def busy(self) -> float:
        """Which part of its core the gateway used."""
        return self.cpu_seconds / self.wall_seconds

    @property
    def others(self) -> float:
        """Which part of its core was used by others: what makes figures bad on a busy machine."""
        return max(0.0, self.core_seconds - self.cpu_seconds) / self.wall_seconds


@dataclass(frozen=True, slots=True)
class Duration:
    """How long a measurement takes."""

    warm_seconds: float
    seconds: float


END_SECONDS: Final = 60.0
"""How long after the measurement the last of many streams may end, on a machine that is too slow for them."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long answers took, measured from when each request was due."""

    p50_seconds: float
    p99_seconds: float
    window: Window


async def _window(work: Callable[[], int], clock: Clock, seconds: float) -> Window:
    """Count what happens within `seconds` from now."""
    work_begun, cpu_begun, begun = work(), clock(), time.monotonic()
    await asyncio.sleep(seconds)
    done, cpu, wall = work() - work_begun, clock(), time.monotonic() - begun
    if not done:
        raise Failed("no work was done in the measured time")
    program_seconds = cpu.program_seconds - cpu_begun.program_seconds
    return Window(done, program_seconds, cpu.core_seconds - cpu_begun.core_seconds, wall)


async def requests(address: Address, request: bytes, connections: int, clock: Clock, duration: Duration) -> Window:
    """Every connection sends its next request as soon as it has its answer."""
    done = 0

    def again(caller: Caller) -> None:
        nonlocal done
        done += 1
        caller.send()

    async with callers(address, request, connections, again) as opened:
        for caller in opened:
            caller.send()
        await asyncio.sleep(duration.warm_seconds)
        window = await _window(lambda: done, clock, duration.seconds)
        for caller in opened:
            if caller.failure.done():
                caller.failure.result()
        return window


async def streams(address: Address, request: bytes, count: int, clock: Clock, duration: Duration) -> Window:
    """Streams that outlast the window; what is counted are chunks."""
    async with readers(address, request, count) as opened:
        await asyncio.sleep(duration.warm_seconds)
        window = await _window(lambda: sum(reader.chunks for reader in opened), clock, duration.seconds)
        broken = sum(reader.ended.done() for reader in opened)
        if broken:
            raise Failed(f"{broken} of {count} streams ended before their time")
        return window


async def latency(address: Address, request: bytes, per_second: float, clock: Clock, duration: Duration) -> Latency:
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
            window = await _window(lambda: len(took), clock, duration.seconds)
            alarm.check()
    took.sort()
    return Latency(took[len(took) // 2], took[len(took) * 99 // 100], window)


@dataclass(frozen=True, slots=True)
class ManyStreams:
    """Streams that all ran to their end, side by side."""

    streams: int
    broken: int
    """Ended without their last event, or with another number of chunks than was asked for."""
    open_during: int
    """Still open at the end of the window: all, unless the machine is too slow to open them in time."""
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

    clock: Clock
    resident_bytes: Callable[[], int]
    in_flight: Callable[[], int | None]


async def many_streams(
    address: Address, count: int, tokens: int, duration: Duration, observer: Observer
) -> ManyStreams:
    """Open streams of `tokens` chunks each, measure while all of them are open, and read them to their end."""
    before = observer.resident_bytes()
    request = chat(200, stream=True, max_tokens=tokens)
    async with readers(address, request, count) as opened:
        await asyncio.sleep(duration.warm_seconds)
        window = await _window(lambda: sum(reader.chunks for reader in opened), observer.clock, duration.seconds)
        during, in_flight = observer.resident_bytes(), observer.in_flight()
        still_open = sum(not reader.ended.done() for reader in opened)
        async with asyncio.timeout(END_SECONDS):
            ended = await asyncio.gather(*(reader.ended for reader in opened))
        whole = sum(well and reader.chunks == tokens for well, reader in zip(ended, opened, strict=True))
        settled = await _settled(observer)
        return ManyStreams(count, count - whole, still_open, before, during, in_flight, settled, window)


async def _settled(observer: Observer) -> int | None:
    """What is in flight once the gateway has had a moment to note that the last answer is complete."""
    for _ in range(20):
        if not observer.in_flight():
            break
        await asyncio.sleep(0.05)
    return observer.in_flight()
