"""Runs a deployment until it is told to end: observe, plan, act, publish, several times a second.

It wires the parts together and holds nothing but the order to stop. What a program needs next is decided in `plan`,
what is known of it is kept by its `Child`, what is said to people stands in `words`.
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from dp_vllm.local import (
    account,
    admin,
    compiled,
    keeps,
    logs,
    orphans,
    pids,
    plan,
    probe,
    words,
)
from dp_vllm.local.ahead import Ahead
from dp_vllm.local.child import Child
from dp_vllm.local.crew import Crew, Outlook, Sight, sight_of
from dp_vllm.local.deployment import Deployment
from dp_vllm.local.hang_doctor import HangDoctor
from dp_vllm.local.hub_access import HubAccess
from dp_vllm.local.narrator import Narrator
from dp_vllm.local.notify import Notifier
from dp_vllm.local.orders import KILL_SECONDS, Orders
from dp_vllm.local.plan import Action, Stop
from dp_vllm.local.publish import Publisher
from dp_vllm.local.replicas import Replicas
from dp_vllm.local.run import Record
from dp_vllm.local.standing import Run

TICK_SECONDS: Final = 0.25
"""How often the loop looks even if nothing new was reported."""

ROTATE_SECONDS: Final = 5.0
"""How often the logs' sizes are looked at."""


class Supervisor:
    """The gateway and the engines of one deployment."""

    def __init__(
        self, deployment: Deployment, sockets: Sequence[socket.socket], narrator: Narrator, crew: Crew
    ) -> None:
        self._deployment = deployment
        self._sockets = sockets
        self._narrator = narrator
        self._wake = asyncio.Event()
        self._crew = crew
        crew.changed, crew.say = self._wake.set, narrator.say
        before = keeps.doors if crew.gateway_is_elsewhere else keeps.gateway
        name = "doors" if crew.gateway_is_elsewhere else "gateway"
        self._gateway = Child(name, before(deployment, sockets), self._wake.set)
        self._replicas = Replicas(
            partial(keeps.engine, deployment, HubAccess(narrator.say)), self._begin_log, self._wake.set
        )
        logs_path = str(deployment.directory.logs)
        record = Record(pids.identify(os.getpid()), deployment.model, deployment.listen.url, {}, logs_path)
        self._publisher = Publisher(deployment, record)
        hang_seconds = deployment.hang_timeout_seconds
        self._hang_doctor = HangDoctor(lambda: self._replicas.children, hang_seconds, narrator.say)
        self._stop: Stop | None = None
        """The order to end everything."""
        self._was_signalled = False
        self._status = 0
        self.orders = Orders(deployment, self._replicas, narrator, self.standing)
        """Given from outside while it runs."""
        staged = {replica.shares for replica in deployment.replicas if replica.shares}
        self._ahead = Ahead(sorted(staged), compiled.beside_cache(os.environ), narrator.say)
        self._notifier = Notifier(os.environ)
        self._began_at = time.monotonic()
        self._begin_log(self._gateway)
        for replica in deployment.replicas:
            self._replicas.add(replica)

    async def run(self) -> int:
        """The exit status, once nothing runs any more."""
        self._listen_to_signals()
        async with (
            admin.serving(self._deployment.directory.supervisor_socket, self.orders),
            asyncio.TaskGroup() as tasks,
        ):
            chores = [
                tasks.create_task(chore) for chore in (self._rotate_logs(), orphans.reap(), self._hang_doctor.watch())
            ]
            while not self._is_over():
                self._wake.clear()
                self._follow_order()
                await self._look()
                self._act(tasks)
                here = self._publisher.publish(
                    self._gateway, self._replicas.children, self._crew.elsewhere, self._replicas.cards
                )
                self._crew.report(here, self._outlook())
                self._narrator.tell_progress(self._replicas.children)
                self._narrator.tell_ends(self._gateway, self._replicas.children, stopping=self._stop is not None)
                self._notifier.tell(self.standing)
                self._give_up_if_hopeless()
                await self._pause()
            for chore in chores:
                chore.cancel()
        self._narrator.say(words.STOPPED)
        return self._status

    def standing(self) -> Run:
        """How the run stands now."""
        return account.of_run(
            self._deployment,
            self._gateway,
            self._replicas.described,
            pid=os.getpid(),
            began_at=self._began_at,
            generation=self._publisher.generation,
            stopping=self._stop is not None,
            now=time.monotonic(),
        )

    @property
    def _children(self) -> list[Child]:
        return [self._gateway, *self._replicas.children]

    def _begin_log(self, child: Child) -> None:
        with contextlib.suppress(OSError):  # then it cannot be started either, which says why
            logs.rotate(child.log)
        name, redacted = (child.name, str) if child is self._gateway else (f"replica {child.name}", child.redacted)
        self._narrator.follow(name, child.log, redacted)

    def _is_over(self) -> bool:
        return self._stop is not None and not any(child.observed.running for child in self._children)

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(TICK_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _look(self) -> None:
        """Ask the gateway, if something depends on it: is it done with those that are to end, does it use the new?"""
        replicas = self._replicas.children
        ending = [replica for replica in replicas if replica.is_draining]
        new = self._narrator.untold(replicas)
        if not ending and not new and not self._crew.elsewhere:
            return
        sight = await self._sight()
        if sight is None:
            return
        self._crew.show(sight)
        for replica in ending:
            if replica.name in sight.done:
                replica.note_drained()
        for replica in new:
            if replica.name in sight.uses:
                self._narrator.tell_ready(replica, replicas)
        if self._stop is not None:
            self._narrator.tell_in_flight(sight.in_flight, self._stop.drain_until - time.monotonic())

    async def _sight(self) -> Sight | None:
        if self._crew.gateway_is_elsewhere:
            return self._crew.sight
        running = self._gateway.observed.running
        state = await probe.gateway_state(self._deployment.directory.admin_socket) if running else None
        return sight_of(state, self._publisher.draining, running=running)

    def _act(self, tasks: asyncio.TaskGroup) -> None:
        now = time.monotonic()
        held = self._ahead.hold(self._replicas.described, now)
        for child in self._children:
            match plan.decide(child.observed, now, child.limits):
                case Action.START if child.name not in held:
                    child.start(tasks)
                case Action.TERM:
                    child.term()
                case Action.KILL:
                    child.kill()
                case Action.REMOVE:
                    self._replicas.remove(child.name)

    def _give_up_if_hopeless(self) -> None:
        if self._stop is None and (problem := self._hopeless()):
            self._narrator.say(problem)
            self._status = 1
            self._end_everything(drain_seconds=0)
            self._wake.set()

    def _hopeless(self) -> str:
        """Why there is no use in going on; empty if there is."""
        if self._gateway.stays_down:
            return words.NO_GATEWAY
        here, elsewhere = self._outlook(), self._crew.outlook
        if self._crew.gateway_is_elsewhere or not here.given_up or not elsewhere.given_up:
            return ""
        return words.NOTHING_IS_LEFT if here.was_ready or elsewhere.was_ready else words.NOTHING_CAME_UP

    def _outlook(self) -> Outlook:
        replicas = self._replicas.children
        return Outlook(any(each.was_ready for each in replicas), all(each.stays_down for each in replicas))

    def _follow_order(self) -> None:
        """End if somebody else of the crew has said so. Doors end last, as answers pass through them."""
        if self._stop is None and self._crew.order is not None:
            self._narrator.say(words.STOPPING_WITH_OTHERS)
            self._end_everything(self._crew.order)
        elif self._stop is not None and not any(each.observed.running for each in self._replicas.children):
            self._gateway.note_drained()

    def _end_everything(self, drain_seconds: float) -> None:
        now = time.monotonic()
        self._stop = Stop(now + drain_seconds, now + drain_seconds + KILL_SECONDS)
        for replica in self._replicas.children:
            replica.order_stop(self._stop)
        self._crew.end(drain_seconds)
        # It refuses new requests and lets the others end, for as long as its own --shutdown-timeout says.
        until = self._stop.kill_at if self._crew.gateway_is_elsewhere else now
        self._gateway.order_stop(Stop(until, self._stop.kill_at))
        for each in self._sockets:
            each.close()  # the gateway has its own; without it nobody is to wait in ours

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        again, self._was_signalled = self._was_signalled, True
        if self._stop is None:
            self._narrator.say(words.STOPPING)
            self._end_everything(self._deployment.shutdown_timeout_seconds)
        elif again:  # Slurm sends it to all nodes, and the first node's order may come before it
            self._narrator.say(words.KILLING)
            now = time.monotonic()
            self._stop = Stop(now, now)
            for child in self._children:
                child.order_stop(self._stop)
        self._wake.set()

    async def _rotate_logs(self) -> None:
        while True:
            await asyncio.sleep(ROTATE_SECONDS)
            for child in self._children:
                with contextlib.suppress(OSError):  # a full disk, or a file of another user
                    await asyncio.to_thread(logs.rotate_if_large, child.log)
