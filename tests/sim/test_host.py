"""What simulated engines of one host share while they start."""

import asyncio
import time
from pathlib import Path

import pytest

from dp_vllm.sim.host import AGAIN, Host


async def seconds(host: Host, what: str, length: float) -> float:
    begun = time.monotonic()
    await host.compute(what, length)
    return time.monotonic() - begun


async def test_what_one_has_done_is_not_done_again(tmp_path: Path) -> None:
    first = await seconds(Host(tmp_path, 1), "compiled", 0.4)
    again = await seconds(Host(tmp_path, 1), "compiled", 0.4)
    assert first >= 0.4
    assert again < first
    assert again >= AGAIN * 0.4


@pytest.mark.parametrize("cores", [1, 2])
async def test_those_that_compile_at_once_share_the_cores(tmp_path: Path, cores: int) -> None:
    begun = time.monotonic()
    await asyncio.gather(*(seconds(Host(tmp_path, cores), f"model-{number}", 0.3) for number in range(2)))
    assert time.monotonic() - begun >= 0.6 / cores
