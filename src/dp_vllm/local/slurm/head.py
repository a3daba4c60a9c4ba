"""The first node of a run that spans several: it has the endpoint, and knows how the replicas of all others are.

The one owner of that knowledge. What is to be done is decided by the supervisor here.
"""

import asyncio
import contextlib
import hmac
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from dp_vllm.endpoints import Endpoint, State
from dp_vllm.errors import UserError
from dp_vllm.local.crew import Crew, Outlook, Sight
from dp_vllm.local.slurm import meeting, messages
from dp_vllm.local.slurm.allocation import Allocation
from dp_vllm.local.slurm.meeting import Meeting
from dp_vllm.local.slurm.messages import End, Hello, Line, Refused, Report, Share
from dp_vllm.local.slurm.spread import Room, divide

HELLO_SECONDS: Final = 10.0
"""How long whoever connects may take to say who it is."""


@dataclass(slots=True)
class _Node:
    room: Room
    line: Line
    endpoints: tuple[Endpoint, ...] = ()
    outlook: Outlook = field(default_factory=lambda: Outlook(given_up=False))
    told_ready: bool = False


class Head(Crew):
    """All other nodes."""

    def __init__(self, job: Allocation, secret: str) -> None:
        super().__init__()
        self.secret = secret
        self._job = job
        self._nodes: dict[str, _Node] = {}
        self._arrived = asyncio.Event()
        self._begun = False
        self._ending = False
        self._shown: Sight | None = None

    # how the nodes find together

    @property
    def present(self) -> list[str]:
        return list(self._nodes)

    async def wait_for(self, count: int) -> None:
        """Until so many other nodes are here."""
        while len(self._nodes) < count:
            self._arrived.clear()
            await self._arrived.wait()

    def divide(self, copies: int, own: Room, port: int) -> int:
        """Tell each node which replicas it runs; how many are left for this one, from 0 on.

        `port` is the endpoint's. Raises UserError if they do not fit.
        """
        nodes = sorted(self._nodes.values(), key=lambda node: self._job.nodes.index(node.room.node))
        self._begun = True
        try:
            here, *counts = divide(copies, [own, *(node.room for node in nodes)])
        except UserError as error:
            for node in nodes:
                node.line.send(Refused(str(error)))
            raise
        first = here
        for node, count in zip(nodes, counts, strict=True):
            node.line.send(Share(first, count, port))
            first += count
        return here

    async def receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hear one who has connected, to its end."""
        line = Line(reader, writer)
        try:
            await self._hear(line)
        finally:
            await line.close()

    async def _hear(self, line: Line) -> None:
        hello = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HELLO_SECONDS):
                hello = await line.receive()
        if (
            not isinstance(hello, Hello)
            or not hmac.compare_digest(hello.secret.encode(), self.secret.encode())
            or self._begun
            or hello.node in self._nodes
            or hello.node not in self._job.nodes
        ):
            return
        node = _Node(Room(hello.node, hello.gpus, hello.fits), line)
        self._nodes[hello.node] = node
        self._arrived.set()
        while isinstance(message := await line.receive(), Report):
            self._take(node, message)
        self._lose(node)

    def _take(self, node: _Node, report: Report) -> None:
        node.endpoints, node.outlook = report.endpoints, report.outlook
        ready = bool(node.endpoints) and all(endpoint.state is State.READY for endpoint in node.endpoints)
        if ready and not node.told_ready:
            self.say(f"{node.room.node}: all {len(node.endpoints)} replicas are ready")
        node.told_ready = ready
        self.changed()

    def _lose(self, node: _Node) -> None:
        """Its engines have ended with it, or nobody looks after them."""
        if not self._begun:
            del self._nodes[node.room.node]
            return
        names = ", ".join(endpoint.name for endpoint in node.endpoints)
        if not self._ending:
            self.say(f"the node {node.room.node} is gone" + (f", and with it the replicas {names}" if names else ""))
        gone = f"its node {node.room.node} is gone"
        node.endpoints = tuple(
            replace(each, state=State.DOWN, message=f"replica {each.name} stays down: {gone}")
            for each in node.endpoints
        )
        node.outlook = Outlook(node.outlook.was_ready, given_up=True)
        self.changed()

    # what the supervisor sees

    @property
    def elsewhere(self) -> tuple[Endpoint, ...]:
        return tuple(endpoint for node in self._nodes.values() for endpoint in node.endpoints)

    @property
    def outlook(self) -> Outlook:
        found = [node.outlook for node in self._nodes.values()]
        return Outlook(any(each.was_ready for each in found), all(each.given_up for each in found))

    def show(self, sight: Sight) -> None:
        if sight != self._shown:
            self._shown = sight
            for node in self._nodes.values():
                node.line.send(sight)

    def end(self, drain_seconds: float) -> None:
        self._ending = True
        for node in self._nodes.values():
            node.line.send(End(drain_seconds))

    async def leave(self) -> None:
        """The other nodes see that this one has ended."""
        self._ending = True
        for node in self._nodes.values():
            await node.line.close()


@contextlib.asynccontextmanager
async def gathered(job: Allocation, logs: Path, seconds: float) -> AsyncIterator[Head]:
    """The other nodes of the step, once all are here. They are told to end, or left, at the end of the block.

    Raises UserError if some do not come within `seconds`.
    """
    head = Head(job, secrets.token_urlsafe(32))
    # IPv4 alone: a listener for both families has a port for each.
    server = await asyncio.start_server(head.receive, "0.0.0.0", 0, limit=messages.LINE_BYTES)  # noqa: S104
    async with server:
        port = server.sockets[0].getsockname()[1]
        meeting.write(logs, Meeting(meeting.own_hosts(job.node), port, head.secret))
        try:
            try:
                async with asyncio.timeout(seconds):
                    await head.wait_for(len(job.nodes) - 1)
            except TimeoutError:
                missing = [node for node in job.nodes if node not in (job.node, *head.present)]
                raise UserError(absent(missing, logs, seconds)) from None
            finally:
                meeting.remove(logs)
                server.close()  # nobody else is to come
            yield head
        finally:
            await head.leave()


def absent(nodes: Sequence[str], logs: Path, seconds: float) -> str:
    return (
        f"{', '.join(nodes)} did not come within {seconds:g} s (--node-timeout): look for what was said there; "
        f"if nothing was, do all nodes share {logs}? --log-dir names another directory"
    )
