"""Runs a deployment until it is told to end: observe, plan, act, publish, several times a second.

It wires the parts together and holds nothing but the order to stop. What a program needs next is decided in `plan`,
what is known of it is kept by its `Child`, what is said to people stands in `words`.
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Sequence
from typing import Final

from dp_vllm.engine import log as engine_log
from dp_vllm.local import listen, logs, orphans, pids, plan, probe, run, terminal, words
from dp_vllm.local.child import Child, Keep
from dp_vllm.local.deployment import Deployment, Replica
from dp_vllm.local.gpu_memory import GpuMemory
from dp_vllm.local.narrator import Narrator
from dp_vllm.local.plan import Action, Stop
from dp_vllm.local.process import Program
from dp_vllm.local.publish import Publisher
from dp_vllm.local.run import Record

KILL_SECONDS: Final = 3.0
"""How long after the deadline of what is in flight everything is killed."""

TICK_SECONDS: Final = 0.25
"""How often the loop looks even if nothing new was reported."""

ROTATE_SECONDS: Final = 5.0
"""How often the logs' sizes are looked at."""


def serve(deployment: Deployment) -> int:
    """Run the deployment until a signal ends it, or until nothing is left that could serve.

    Returns the exit status: 0 if it was ended by SIGTERM, SIGINT or SIGHUP, 1 if there was nothing to serve. Raises
    UserError, before anything is started, if the run's name or its address is taken.
    """
    directory = deployment.directory
    shown = {"gateway": directory.gateway_log} | {
        f"replica {replica.name}": directory.replica_log(replica.name) for replica in deployment.replicas
    }
    with run.claimed(directory, deployment.files), listen.listening(deployment.listen) as sockets:
        for path in shown.values():
            logs.rotate(path)
        with terminal.Terminal(shown, colours=terminal.wants_colours(os.environ)) as screen:
            screen.show(words.greeting(deployment))
            return asyncio.run(Supervisor(deployment, sockets, Narrator(screen.say)).run())


class Supervisor:
    """The gateway and the engines of one deployment."""

    def __init__(self, deployment: Deployment, sockets: Sequence[socket.socket], narrator: Narrator) -> None:
        self._deployment = deployment
        self._sockets = sockets
        self._narrator = narrator
        self._wake = asyncio.Event()
        self._gateway = Child("gateway", _keep_gateway(deployment, sockets), self._wake.set)
        self._replicas = [
            Child(replica.name, _keep_engine(deployment, replica), self._wake.set) for replica in deployment.replicas
        ]
        record = Record(pids.identify(os.getpid()), deployment.model, deployment.listen.url, {})
        self._publisher = Publisher(deployment, record)
        self._stop: Stop | None = None
        """The order to end everything."""
        self._status = 0

    async def run(self) -> int:
        """The exit status, once nothing runs any more."""
        self._listen_to_signals()
        async with asyncio.TaskGroup() as tasks:
            chores = [tasks.create_task(chore) for chore in (self._rotate_logs(), orphans.reap())]
            while not self._is_over():
                self._wake.clear()
                await self._look()
                self._act(tasks)
                self._publisher.publish(self._gateway, self._replicas)
                self._narrator.tell_ends(self._gateway, self._replicas, stopping=self._stop is not None)
                self._give_up_if_hopeless()
                await self._pause()
            for chore in chores:
                chore.cancel()
        self._narrator.say(words.STOPPED)
        return self._status

    def stop_replica(self, name: str, drain_seconds: float) -> None:
        """End one replica for good: nothing new is sent to it, what is in flight has `drain_seconds`, then SIGTERM."""
        until = time.monotonic() + drain_seconds
        (replica,) = (replica for replica in self._replicas if replica.name == name)
        replica.order_stop(Stop(until, until + KILL_SECONDS))
        self._wake.set()

    @property
    def _children(self) -> list[Child]:
        return [self._gateway, *self._replicas]

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
        ending = [replica for replica in self._replicas if replica.is_draining]
        new = self._narrator.untold(self._replicas)
        if not ending and not new:
            return
        running = self._gateway.observed.running
        state = await probe.gateway_state(self._deployment.directory.admin_socket) if running else None
        for replica in ending:
            since = self._publisher.draining_since(replica.name)
            if not running or (state and since is not None and state.is_done_with(replica.name, since)):
                replica.note_drained()
        if state is None:
            return
        for replica in new:
            if state.uses(replica.name):
                self._narrator.tell_ready(replica, self._replicas)
        if self._stop is not None:
            self._narrator.tell_in_flight(state.in_flight, self._stop.drain_until - time.monotonic())

    def _act(self, tasks: asyncio.TaskGroup) -> None:
        now = time.monotonic()
        for child in self._children:
            match plan.decide(child.observed, now, child.limits):
                case Action.START:
                    child.start(tasks)
                case Action.TERM:
                    child.term()
                case Action.KILL:
                    child.kill()

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
        wanted = [replica for replica in self._replicas if replica.observed.stop is None]
        if not wanted or not all(replica.stays_down for replica in wanted):
            return ""
        return words.NOTHING_IS_LEFT if any(replica.was_ready for replica in wanted) else words.NOTHING_CAME_UP

    def _end_everything(self, drain_seconds: float) -> None:
        now = time.monotonic()
        self._stop = Stop(now + drain_seconds, now + drain_seconds + KILL_SECONDS)
        for replica in self._replicas:
            replica.order_stop(self._stop)
        # It refuses new requests and lets the others end, for as long as its own --shutdown-timeout says.
        self._gateway.order_stop(Stop(now, self._stop.kill_at))
        for each in self._sockets:
            each.close()  # the gateway has its own; without it nobody is to wait in ours

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self._stop is None:
            self._narrator.say(words.STOPPING)
            self._end_everything(self._deployment.shutdown_timeout_seconds)
        else:
            self._narrator.say(words.KILLING)
            now = time.monotonic()
            self._stop = Stop(now, now)
            for child in self._children:
                child.order_stop(self._stop)
        self._wake.set()

    async def _rotate_logs(self) -> None:
        directory = self._deployment.directory
        paths = [directory.gateway_log, *(directory.replica_log(replica.name) for replica in self._replicas)]
        while True:
            await asyncio.sleep(ROTATE_SECONDS)
            for path in paths:
                await asyncio.to_thread(logs.rotate_if_large, path)


def _keep_gateway(deployment: Deployment, sockets: Sequence[socket.socket]) -> Keep:
    directory = deployment.directory
    fds = tuple(each.fileno() for each in sockets)

    async def is_ready() -> bool:
        return await probe.gateway_state(directory.admin_socket) is not None

    return Keep(
        program=Program(
            name="gateway",
            argv=(*deployment.gateway.argv, *(word for fd in fds for word in ("--listen-fd", str(fd)))),
            environment=deployment.gateway.environment(os.environ),
            log=directory.gateway_log,
            fds=fds,
        ),
        limits=plan.GATEWAY,
        is_ready=is_ready,
        progress=lambda lines: "",
        cause=lambda lines: "",
        socket=directory.admin_socket,
    )


def _keep_engine(deployment: Deployment, replica: Replica) -> Keep:
    async def is_ready() -> bool:
        return await probe.is_healthy(replica.address)

    return Keep(
        program=Program(
            name=f"replica-{replica.name}",
            argv=replica.command.argv,
            environment=replica.command.environment(os.environ),
            log=deployment.directory.replica_log(replica.name),
        ),
        limits=plan.ENGINE,
        is_ready=is_ready,
        progress=engine_log.progress,
        cause=engine_log.likely_cause,
        socket=deployment.directory.replica_socket(replica.name) if replica.address.startswith("unix:") else None,
        gpu_memory=GpuMemory(replica.gpus) if replica.gpus else None,
    )
