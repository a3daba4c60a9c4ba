"""What the operator says of itself: at real sockets, to those who ask for its health and its metrics."""

import asyncio
import random
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
import simulated_time
from ports import free_port

from dp_vllm.errors import UserError
from dp_vllm_operator import health
from dp_vllm_operator.health import Health
from dp_vllm_operator.metrics import Metrics
from dp_vllm_operator.queue import Key, Keys


def queue() -> Keys:
    return Keys(rng=random.Random(1))


def test_a_model_that_is_worked_on_for_two_minutes_needs_a_restart() -> None:
    async def main() -> None:
        keys, loop = queue(), asyncio.get_running_loop()
        asked = Health(keys)
        keys.add(Key("default", "a"))
        async with keys.next():
            await asyncio.sleep(119)
            assert asked.why_dead(loop.time()) == ""
            await asyncio.sleep(1)
            assert asked.why_dead(loop.time()) == "a model has been worked on for 120 s"
        assert asked.why_dead(loop.time()) == ""

    simulated_time.run(main())


def test_a_change_that_no_watch_told_of_needs_a_restart() -> None:
    asked = Health(queue())
    asked.heard("uid-1", "5", now=100)
    asked.listed({"uid-1": "5", "uid-2": "9"}, began=200, now=201)
    assert asked.why_dead(260) == ""
    assert asked.why_dead(261) == "no watch told of the changes of 1 objects, uid-2 for one"
    assert asked.missed(261) == 1
    asked.heard("uid-2", "9", now=270)
    assert asked.why_dead(270) == ""


def test_an_api_server_that_does_not_answer_makes_it_unready_and_never_dead() -> None:
    asked = Health(queue())
    assert asked.why_unready(0) == "the API server has not answered yet"
    asked.api_answered(1)
    asked.listed({"uid-1": "9"}, began=1, now=2)
    assert asked.why_unready(2) == ""
    for now in range(3, 600, 2):
        asked.api_failed(now, "GET /x: refused")
        assert asked.why_dead(now) == ""
    assert asked.why_unready(15) == ""
    assert asked.why_unready(100) == "the API server has not answered for 99 s: GET /x: refused"
    asked.api_answered(600)
    assert asked.why_unready(600) == ""


class Asked:
    """A served Health, and who asks it."""

    def __init__(self, session: aiohttp.ClientSession, port: int, keys: Keys) -> None:
        self.session = session
        self.url = f"http://127.0.0.1:{port}"
        self.health = Health(keys)
        self.metrics = Metrics(keys, self.health)

    async def get(self, path: str) -> tuple[int, str]:
        async with self.session.get(self.url + path) as response:
            return response.status, await response.text()


@pytest_asyncio.fixture
async def asked() -> AsyncIterator[Asked]:
    port = free_port()
    async with aiohttp.ClientSession() as session:
        asked = Asked(session, port, queue())
        async with health.serving(port, asked.health, asked.metrics.registry):
            yield asked


async def test_both_are_answered_with_the_reason(asked: Asked) -> None:
    now = asyncio.get_running_loop().time()
    assert await asked.get("/healthz") == (200, "ok\n")
    assert await asked.get("/readyz") == (503, "the API server has not answered yet\n")
    asked.health.api_answered(now)
    asked.health.listed({"uid-1": "9"}, began=now - 61, now=now - 61)
    assert await asked.get("/healthz") == (503, "no watch told of the changes of 1 objects, uid-1 for one\n")
    assert await asked.get("/readyz") == (200, "ok\n")


async def test_metrics_are_served(asked: Asked) -> None:
    status, text = await asked.get("/metrics")
    assert status == 200
    assert "dp_vllm_operator_queue_depth 0.0" in text


async def test_a_port_that_is_taken_is_named(asked: Asked) -> None:
    port = int(asked.url.rpartition(":")[2])
    with pytest.raises(UserError, match=f"cannot listen on port {port}: .*in use"):
        async with health.serving(port, asked.health, asked.metrics.registry):
            pass
