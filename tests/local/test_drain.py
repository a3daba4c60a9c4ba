"""One replica of a running deployment is ended: only after the gateway has confirmed that it is done with it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from local.serve_stand_ins import deployment
from programs import free_port, wait_until

from dp_vllm import endpoints
from dp_vllm.endpoints import State
from dp_vllm.local import run
from dp_vllm.local.listen import listening
from dp_vllm.local.narrator import Narrator
from dp_vllm.local.run_directory import RunDirectory
from dp_vllm.local.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class Served:
    """Two replicas that are ready."""

    supervisor: Supervisor
    directory: RunDirectory

    def states(self) -> list[State]:
        return [endpoint.state for endpoint in endpoints.read(self.directory.endpoints).endpoints]

    def set_in_flight(self, replica: int, count: int) -> None:
        new = self.directory.path / "in-flight.new"
        new.write_text(f"{replica} {count}\n")
        new.replace(new.with_suffix(""))

    def asked(self) -> int:
        """How often the gateway was asked for its state."""
        return self.directory.gateway_log.read_text().count("asked")

    def is_told_to_end(self, replica: int) -> bool:
        return "SIGTERM" in self.directory.replica_log(str(replica)).read_text()


async def until(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    what = deployment(tmp_path, free_port(), 600, "", "", "")
    with run.claimed(what.directory, {}), listening(what.listen) as sockets:
        said: list[str] = []
        supervisor = Supervisor(what, sockets, Narrator(said.append))
        running = asyncio.create_task(supervisor.run())
        try:
            await until(lambda: any("2 of 2" in line for line in said), "both replicas are ready")
            yield Served(supervisor, what.directory)
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


async def test_a_replica_ends_when_its_last_request_has_and_the_other_one_stays(served: Served) -> None:
    served.set_in_flight(0, 1)
    served.supervisor.stop_replica("0", drain_seconds=600)
    await until(lambda: served.states() == [State.DRAINING, State.READY], "clients are sent elsewhere")
    before = served.asked()
    await until(lambda: served.asked() >= before + 3, "the gateway was asked several times")
    assert not served.is_told_to_end(0)
    served.set_in_flight(0, 0)
    await until(lambda: served.states() == [State.DOWN, State.READY], "the replica ended")
    assert served.is_told_to_end(0) and not served.is_told_to_end(1)


async def test_a_replica_ends_at_the_deadline_whatever_is_in_flight(served: Served) -> None:
    served.set_in_flight(1, 1)
    served.supervisor.stop_replica("1", drain_seconds=0.5)
    await until(lambda: served.states() == [State.READY, State.DOWN], "the replica ended")
    assert served.is_told_to_end(1) and not served.is_told_to_end(0)
