"""A node of a run that spans several, but the first: its replicas serve the endpoint of that one."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final

from dp_vllm.endpoints import Endpoint
from dp_vllm.errors import UserError
from dp_vllm.local.crew import Crew, Outlook, Sight
from dp_vllm.local.slurm import meeting, messages
from dp_vllm.local.slurm.allocation import Allocation
from dp_vllm.local.slurm.messages import End, Hello, Line, Refused, Report, Share
from dp_vllm.local.slurm.spread import Room

CONNECT_SECONDS: Final = 3.0
LOOK_SECONDS: Final = 0.2


class Member(Crew):
    """The first node, as another one sees it."""

    gateway_is_elsewhere: ClassVar[bool] = True

    def __init__(self, line: Line, secret: str, share: Share) -> None:
        super().__init__()
        self.secret = secret
        self.share = share
        self.host = line.own_host
        """This machine's address, as the first node reaches it."""
        self.doors: Mapping[str, str] = {}
        """Where other nodes reach the replicas, by name: set by whoever opened them."""
        self.is_lost = False
        """The first node ended without saying so."""
        self._line = line
        self._sight: Sight | None = None
        self._order: float | None = None
        self._reported: Report | None = None

    async def listen(self) -> None:
        """Hear the first node, to its end."""
        while (message := await self._line.receive()) is not None:
            match message:
                case Sight():
                    self._sight = message
                case End():
                    self._order = message.seconds
            self.changed()
        self.is_lost = self._order is None
        self._order = self._order or 0.0
        # Whoever sent requests here is gone.
        self._sight = Sight(done=frozenset(self.doors))
        self.changed()

    async def leave(self) -> None:
        await self._line.close()

    @property
    def sight(self) -> Sight | None:
        return self._sight

    @property
    def order(self) -> float | None:
        return self._order

    def report(self, own: Sequence[Endpoint], outlook: Outlook) -> None:
        there = tuple(
            replace(endpoint, address=self.doors[endpoint.name]) for endpoint in own if endpoint.name in self.doors
        )
        report = Report(there, outlook)
        if report != self._reported:
            self._reported = report
            self._line.send(report)


@contextlib.asynccontextmanager
async def joined(job: Allocation, logs: Path, room: Room, seconds: float) -> AsyncIterator[Member]:
    """This node's part in the run, once the first node has said what it is. Raises UserError if it does not."""
    member = await _met(job, logs, room, time.monotonic() + seconds, seconds)
    task = asyncio.get_running_loop().create_task(member.listen())
    try:
        yield member
    finally:
        task.cancel()
        await member.leave()


async def _met(job: Allocation, logs: Path, room: Room, until: float, seconds: float) -> Member:
    found = None
    while time.monotonic() < until:
        found = meeting.read(logs)  # anew: it may be one that a killed step left
        for host in found.hosts if found else ():
            assert found is not None
            line = await _connected(host, found.port)
            if line is None:
                continue
            line.send(Hello(found.secret, room.node, room.gpus, room.fits))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until - time.monotonic()):
                    match await line.receive():
                        case Share() as share:
                            return Member(line, found.secret, share)
                        case Refused(why):
                            raise UserError(f"{job.nodes[0]} says: {why}")
            await line.close()
        await asyncio.sleep(LOOK_SECONDS)
    if found is None:
        raise UserError(
            f"the first node, {job.nodes[0]}, left no word within {seconds:g} s (--node-timeout): look for what was "
            f"said there; if nothing was, do all nodes share {logs}? --log-dir names another directory"
        )
    raise UserError(
        f"the first node, {job.nodes[0]}, does not answer on port {found.port} of {', '.join(found.hosts)}: nodes must "
        "reach each other's TCP ports"
    )


async def _connected(host: str, port: int) -> Line | None:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return Line(*await asyncio.open_connection(host, port, limit=messages.LINE_BYTES))
    except (OSError, TimeoutError):
        return None
