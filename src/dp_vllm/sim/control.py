"""`/sim/fault`, and the faults that concern the whole server rather than one request."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from dp_vllm.errors import BadSettings
from dp_vllm.sim import errors, faults
from dp_vllm.sim.app import App
from dp_vllm.sim.faults import Fault
from dp_vllm.sim.lifecycle import Lifecycle
from dp_vllm.sim.listen import Door

_log = logging.getLogger("dp_vllm.sim")
_ORPHAN_SECONDS = 600


class Control:
    """Switches faults on and off."""

    def __init__(self, app: App, life: Lifecycle, door: Door, group: asyncio.TaskGroup) -> None:
        self._app = app
        self._life = life
        self._door = door
        self._group = group
        self.later: list[asyncio.Task[None]] = []
        """What waits for its time; the owner of the group cancels it at the end."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer GET, POST or DELETE of `/sim/fault`."""
        try:
            if request.method == "POST":
                wanted = faults.parse((await request.read()).decode("utf-8", "replace"))
                for fault in wanted:
                    if fault.kind in faults.BOOT and fault.kind != "ignore-sigterm":
                        raise BadSettings(f"fault {fault.kind!r} is for the start: --sim-fault {fault.kind}")
                for fault in wanted:
                    await self.switch_on(fault)
            elif request.method == "DELETE":
                await self.switch_off(request.query.get("kind"))
        except BadSettings as error:
            raise errors.bad_request(str(error)) from error
        return self._app.json({"faults": self._app.faults.report()})

    async def switch_on(self, fault: Fault) -> None:
        """Switch a fault on and do what is to be done at once."""
        _log.info("fault on: %s", json.dumps(faults.as_json(fault)))
        self._app.faults.add(fault)
        if fault.kind == "refuse":
            self._door.close()
            if fault.seconds is not None:
                self._do_later(fault.seconds, lambda: self.switch_off("refuse"))
        elif fault.kind == "hung":
            self._app.steps.hold("hung")
        elif fault.kind == "slow":
            self._app.steps.slowness = fault.factor
        elif fault.kind == "engine-dead":
            self._kill_engine(2.0 if fault.seconds is None else fault.seconds)
        elif fault.kind == "ignore-sigterm":
            self._life.ignores = True
        elif fault.kind == "die":
            os.kill(os.getpid(), fault.signal_number)

    async def switch_off(self, kind: str | None) -> None:
        """Switch off one kind, or all."""
        for fault in self._app.faults.remove(kind):
            _log.info("fault off: %s", fault.kind)
            if fault.kind == "refuse":
                await self._door.open()
            elif fault.kind == "hung":
                self._app.steps.let_go("hung")
            elif fault.kind == "slow":
                self._app.steps.slowness = 1.0
            elif fault.kind == "ignore-sigterm":
                self._life.ignores = False

    def _kill_engine(self, seconds: float) -> None:
        _log.error("EngineCore encountered a fatal error.")
        self._app.dead = True
        self._app.engine.end_all("error")
        self._do_later(seconds, self._exit)

    async def _exit(self) -> None:
        _log.error("the engine is dead: the server ends")
        os._exit(1)

    def _do_later(self, seconds: float, act: Callable[[], Awaitable[Any]]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            await act()

        self.later.append(self._group.create_task(wait()))


def leave_orphan() -> None:
    """Fork a child that ignores SIGTERM, in a session of its own; it ends by itself after ten minutes."""
    child = os.fork()
    if child:
        _log.info("orphan: child %d ignores SIGTERM in a session of its own", child)
        return
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(_ORPHAN_SECONDS)
    os._exit(0)
