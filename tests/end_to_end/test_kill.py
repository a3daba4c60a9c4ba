"""kill -9 of parts of a run under load: clients lose nothing but the streams that the dead part was sending."""

import asyncio
import re
import time
from collections.abc import Callable

from deployments import Served, kill, serve
from end_to_end.load import load
from programs import is_alive, wait_until

SLOW = ("--sim-decode-step-seconds", "0.02", "--sim-prefill-tokens-per-second", "8000")
"""A chat takes most of a second, and waits for its first token long enough to be killed before it."""


async def until(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what)


def starts(served: Served) -> list[float]:
    """How long the starts took after which all four served."""
    return [float(seconds) for seconds in re.findall(r"ready: 4 of 4 \(.* after (.+) s\)", served.program.output())]


async def test_a_killed_replica_costs_only_the_streams_it_was_sending() -> None:
    with serve(*SLOW, replicas=4) as served:
        async with load(served.url, clients=32) as clients:
            await clients.until(count=40)
            await until(lambda: (served.in_flight(0) or 0) >= 4, "there is something to lose")
            killed_at = time.monotonic()
            kill(served.pids()["0"])
            await until(lambda: not served.serves(0), "the death is noticed")
            await until(lambda: served.serves(0), "the replica is back")
            seconds = time.monotonic() - killed_at
            await until(lambda: len(starts(served)) == 2, "that is said")
            assert seconds - starts(served)[1] < 4 * 2, "two seconds beside the engine's start, where nothing else runs"
            await clients.until(count=40)
        cut = [chat for chat in clients.chats if not chat.is_whole]
        assert all(chat.is_cut_in_order and chat.replica == "0" for chat in cut), cut
        assert len(cut) < 32 / 2, "at most every stream of that moment"
        await until(lambda: served.in_flight() == 0, "nothing is in flight any more")


async def test_a_killed_gateway_is_back_and_engines_stay() -> None:
    with serve(*SLOW, replicas=2) as served:
        before = served.pids()
        async with load(served.url, clients=16) as clients:
            await clients.until(count=8)
            kill(before["gateway"])
            await until(lambda: served.pids().get("gateway") not in (None, before["gateway"]), "there is a new one")
            await clients.until(count=len(clients.chats) + 32)
        lost = [chat for chat in clients.chats if not chat.is_whole]
        assert len(lost) <= 16, "only the streams of that moment; who connected meanwhile was served later"
        assert all(chat.broken for chat in lost), lost
        assert {**served.pids(), "gateway": 0} == {**before, "gateway": 0}


def test_nothing_is_left_5_seconds_after_the_supervisor_was_killed() -> None:
    with serve("--sim-fault", "orphan", "ignore-sigterm", replicas=4) as served:
        processes = served.descendants()
        assert len(processes) == 14, "a gateway and four engines, a guardian each, and what each engine let loose"
        kill(served.program.pid)
        wait_until(lambda: not any(map(is_alive, processes)), "all are gone", seconds=5)
