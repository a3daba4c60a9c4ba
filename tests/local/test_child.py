"""One program, life after life: what it waits for, and what is known of it meanwhile."""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from programs import wait_until

from dp_vllm.endpoints import State
from dp_vllm.engine.log import Stage
from dp_vllm.local import plan
from dp_vllm.local.child import Child
from dp_vllm.local.gpu_memory import GpuMemory
from dp_vllm.local.keep import Keep
from dp_vllm.local.plan import Limits, Stop
from dp_vllm.local.process import Program


async def until(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what)


async def never() -> bool:
    return False


def said(lines: Sequence[str]) -> Stage | None:
    return Stage("Loading", lines[-1]) if lines else None


def child(tmp_path: Path, code: str, gpu_memory: GpuMemory | None = None) -> Child:
    program = Program("test", (sys.executable, "-uc", code), os.environ, tmp_path / "log")
    keep = Keep(program, Limits(), never, said, gpu_memory=gpu_memory)
    return Child("0", keep, lambda: None)


async def test_its_progress_and_its_end_are_known(tmp_path: Path) -> None:
    made = child(tmp_path, "import time; print('loading'); time.sleep(1); raise SystemExit('no luck')")
    async with asyncio.TaskGroup() as tasks:
        made.start(tasks)
        await until(lambda: made.message == "loading", "its log was read")
        states = [made.state]
    assert [*states, made.state] == [State.STARTING, State.DOWN]
    assert str(made.observed.ends[-1]) == "exit status 1: no luck"
    assert made.observed.ends[-1].ready_seconds is None


async def test_it_is_started_again_when_the_memory_of_its_gpus_is_back(tmp_path: Path) -> None:
    driver = tmp_path / "driver.json"
    driver.write_text(json.dumps({"free": [80]}))
    memory = GpuMemory(["0"], [sys.executable, "-c", f"print(open({str(driver)!r}).read())"])
    made = child(tmp_path, "print('started')", memory)
    async with asyncio.TaskGroup() as tasks:
        made.start(tasks)
        await until(lambda: not made.observed.running, "its first life is over")
        driver.write_text(json.dumps({"free": [8]}))
        made.start(tasks)
        await until(lambda: made.message == "waiting for the memory of its GPUs", "it waits")
        assert (tmp_path / "log").read_text() == "started\n"
        driver.write_text(json.dumps({"free": [80]}))
    assert (tmp_path / "log").read_text() == "started\nstarted\n"


async def test_an_order_to_end_is_obeyed_while_it_waits(tmp_path: Path) -> None:
    driver = tmp_path / "driver.json"
    driver.write_text(json.dumps({"free": [80]}))
    memory = GpuMemory(["0"], [sys.executable, "-c", f"print(open({str(driver)!r}).read())"])
    memory.is_back()
    driver.write_text(json.dumps({"free": [8]}))
    made = child(tmp_path, "print('started')", memory)
    async with asyncio.TaskGroup() as tasks:
        made.start(tasks)
        await until(lambda: made.message != "", "it waits")
        made.order_stop(Stop(0, 0))
    assert not (tmp_path / "log").exists()
    assert plan.decide(made.observed, 100, made.limits) is None
