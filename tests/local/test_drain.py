"""Replicas of a running deployment end, start again, leave and come: none before the gateway is done with it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from local.serve_stand_ins import deployment
from ports import free_port
from programs import wait_until

from dp_vllm import endpoints
from dp_vllm.endpoints import State
from dp_vllm.local import run
from dp_vllm.local.crew import Crew
from dp_vllm.local.listen import listening
from dp_vllm.local.narrator import Narrator
from dp_vllm.local.plan import Then
from dp_vllm.local.run_directory import RunDirectory
from dp_vllm.local.standing import ScaleOrder, StopOrder
from dp_vllm.local.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class Served:
    """Two replicas that are ready."""

    supervisor: Supervisor
    directory: RunDirectory

    def stop(self, replica: str, drain_seconds: float, then: Then = Then.STAY_DOWN) -> None:
        self.supervisor.orders.stop(StopOrder((replica,), drain_seconds, then))

    def states(self) -> list[State]:
        return [endpoint.state for endpoint in endpoints.read(self.directory.endpoints).endpoints]

    def lives(self) -> list[tuple[str, str, State]]:
        """Name, incarnation and state of each replica."""
        return [
            (each.name, each.incarnation, each.state) for each in endpoints.read(self.directory.endpoints).endpoints
        ]

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
        supervisor = Supervisor(what, sockets, Narrator(said.append, lambda name, path, redacted: None), Crew())
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
    served.stop("0", drain_seconds=600)
    await until(lambda: served.states() == [State.DRAINING, State.READY], "clients are sent elsewhere")
    before = served.asked()
    await until(lambda: served.asked() >= before + 3, "the gateway was asked several times")
    assert not served.is_told_to_end(0)
    served.set_in_flight(0, 0)
    await until(lambda: served.states() == [State.DOWN, State.READY], "the replica ended")
    assert served.is_told_to_end(0) and not served.is_told_to_end(1)


async def test_a_replica_ends_at_the_deadline_whatever_is_in_flight(served: Served) -> None:
    served.set_in_flight(1, 1)
    served.stop("1", drain_seconds=0.5)
    await until(lambda: served.states() == [State.READY, State.DOWN], "the replica ended")
    assert served.is_told_to_end(1) and not served.is_told_to_end(0)


async def test_a_replica_starts_again_once_it_has_ended(served: Served) -> None:
    served.set_in_flight(0, 1)
    served.stop("0", drain_seconds=600, then=Then.START)
    await until(lambda: served.states() == [State.DRAINING, State.READY], "clients are sent elsewhere")
    served.set_in_flight(0, 0)
    await until(lambda: served.lives() == [("0", "2", State.READY), ("1", "1", State.READY)], "it is back")


async def test_a_replica_that_left_is_not_named_any_more_and_another_of_its_name_is_told_from_it(
    served: Served,
) -> None:
    served.stop("1", drain_seconds=600, then=Then.LEAVE)
    await until(lambda: served.lives() == [("0", "1", State.READY)], "it is gone")
    served.supervisor.orders.scale(ScaleOrder(3, 0))
    both = [("0", "1", State.READY), ("1", "2", State.READY), ("2", "1", State.READY)]
    await until(lambda: served.lives() == both, "two more are there")


async def test_the_run_goes_on_when_all_its_replicas_were_told_to_stay_down(served: Served) -> None:
    for name in "01":
        served.stop(name, drain_seconds=0)
    await until(lambda: served.states() == [State.DOWN, State.DOWN], "both ended")
    served.stop("0", drain_seconds=0, then=Then.START)
    await until(lambda: served.lives()[0] == ("0", "2", State.READY), "it is back")
