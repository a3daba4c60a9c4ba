"""The kubelet as tests use it: in a thread of its own, so that it goes on whatever the test does."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, Self

from cluster.api import connected

from .agent import Agent
from .logs import Logs
from .script import Script

_SECONDS: Final = 30.0


class Kubelet:
    """Plays all nodes that are added, until its `with` block ends."""

    def __init__(self, kubeconfig: Path, namespace: str = "", certificate: tuple[Path, Path] | None = None) -> None:
        """With a namespace, its nodes and what it does are for that one's pods; without, for all.

        `certificate` and its key are those of a server at 127.0.0.1 that the API server trusts; there are no logs else.
        """
        self._kubeconfig = kubeconfig
        self._namespace = namespace
        self._certificate = certificate
        self._logs = Logs()
        self._ready: Future[Agent] = Future()
        self._stop = asyncio.Event()
        self._nodes: list[str] = []
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="kubelet")

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread.start()
        self._ready.result(_SECONDS)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_SECONDS)
        assert not self._thread.is_alive(), "the kubelet does not end"
        if self._failure is not None:
            raise self._failure

    def add_node(self, name: str = "node", gpus: int = 8) -> str:
        """A node, Ready; its full name. Nodes of a namespace have its name before theirs."""
        full = f"{self._namespace}-{name}" if self._namespace else name
        self._nodes.append(full)
        self._do(self._agent.add_node(full, gpus))
        return full

    def remove_node(self, full_name: str) -> None:
        self._nodes.remove(full_name)
        self._do(self._agent.remove_node(full_name))

    def lose(self, full_name: str) -> None:
        """A node falls silent: NotReady after 20 s on the test bed, and nothing becomes of its pods."""
        self._loop.call_soon_threadsafe(self._agent.lose, full_name)

    def restore(self, full_name: str) -> None:
        self._do(self._agent.restore(full_name))

    def script(self, pattern: str, script: Script) -> None:
        """What becomes of pods whose name matches (`m-1-*`), present and future ones; what was said last holds."""
        self._loop.call_soon_threadsafe(self._agent.script, pattern, script)

    def ready_for(self, seconds: float) -> None:
        """Pods that get ready from now on say that they have been for so long: who waits for that need not."""
        self._loop.call_soon_threadsafe(setattr, self._agent, "ready_for_seconds", seconds)

    def log(self, pattern: str, text: str, *, previous: str = "") -> None:
        """What the containers of such pods have logged, and those before their last restart."""
        self._loop.call_soon_threadsafe(self._logs.say, pattern, text, previous)

    @property
    def _agent(self) -> Agent:
        return self._ready.result()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_SECONDS)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._live())
        except BaseException as failure:
            self._failure = failure
            if not self._ready.done():
                self._ready.set_exception(failure)

    async def _live(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            log_port = (
                await stack.enter_async_context(self._logs.served(*self._certificate)) if self._certificate else 0
            )
            api = await stack.enter_async_context(connected(self._kubeconfig))
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            agent = Agent(api, self._namespace, tasks, log_port)
            listening = asyncio.Event()
            life = [tasks.create_task(agent.heartbeats()), tasks.create_task(agent.watch(listening.set))]
            await listening.wait()
            self._ready.set_result(agent)
            await self._stop.wait()
            for task in life:
                task.cancel()
            await agent.end()
