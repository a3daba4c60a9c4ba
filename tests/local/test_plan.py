"""When a program is started, asked to end and killed: tables, and whole lives lived on a simulated clock."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm.local.plan import (
    ENGINE,
    GATEWAY,
    Action,
    End,
    Limits,
    Observed,
    Stop,
    Then,
    decide,
    ends_after,
    stays_down,
)

RUNS = Observed(running=True)
READY = Observed(running=True, ready_at=10)
STOP = Stop(drain_until=105, kill_at=108)
AGAIN, LEAVE = replace(STOP, then=Then.START), replace(STOP, then=Then.LEAVE)


def failed(at: float, cause: str = "boom") -> End:
    return End(at, None, "exit status 1", cause)


def crashed(at: float, ready_seconds: float = 10) -> End:
    return End(at, ready_seconds, "killed by SIGSEGV")


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        pytest.param(Observed(), Action.START, id="new: start"),
        pytest.param(RUNS, None, id="starting: leave alone"),
        pytest.param(READY, None, id="ready: leave alone"),
        pytest.param(Observed(ends=(crashed(99.5),)), None, id="ended half a second ago: wait"),
        pytest.param(Observed(ends=(crashed(99),)), Action.START, id="ended a second ago: start"),
        pytest.param(Observed(ends=(crashed(50), crashed(98.5))), None, id="second end: wait two seconds"),
        pytest.param(Observed(ends=(failed(1), failed(2), failed(3))), None, id="same failure three times: stay down"),
        pytest.param(
            Observed(ends=(replace(failed(1), excused=True), failed(2), failed(3))),
            Action.START,
            id="one was no fault of its own",
        ),
        pytest.param(Observed(ends=(failed(1), failed(2, "other"), failed(3))), Action.START, id="failures differ"),
        pytest.param(Observed(ends=(failed(1), crashed(2), failed(3))), Action.START, id="was ready in between"),
        pytest.param(Observed(stop=STOP), None, id="gone and to be stopped: leave alone"),
        pytest.param(Observed(stop=AGAIN, ends=(crashed(99.9),)), Action.START, id="gone and to start again: at once"),
        pytest.param(Observed(stop=LEAVE), Action.REMOVE, id="gone and to leave: forget it"),
        pytest.param(replace(RUNS, stop=AGAIN, terms=(99.5,)), None, id="to start again, but something of it is left"),
        pytest.param(replace(READY, stop=STOP), None, id="requests in flight: wait"),
        pytest.param(replace(READY, stop=STOP, drained=True), Action.TERM, id="drained: ask to end"),
        pytest.param(replace(READY, stop=Stop(100, 108)), Action.TERM, id="drain deadline: ask to end"),
        pytest.param(replace(RUNS, stop=STOP), Action.TERM, id="starting, so nothing in flight: ask to end"),
        pytest.param(replace(RUNS, stop=STOP, terms=(99.5,)), None, id="starting, asked: give it a second"),
        pytest.param(replace(RUNS, stop=STOP, terms=(99,)), Action.TERM, id="starting, swallowed it: ask again"),
        pytest.param(replace(RUNS, stop=STOP, terms=(90, 91)), None, id="asked twice: that is enough"),
        pytest.param(replace(READY, stop=STOP, drained=True, terms=(90,)), None, id="asked: wait"),
        pytest.param(replace(READY, stop=Stop(95, 100), terms=(95,)), Action.KILL, id="kill deadline"),
        pytest.param(replace(READY, stop=Stop(900, 903), terms=(70,)), Action.KILL, id="asked half a minute ago"),
        pytest.param(replace(READY, stop=Stop(95, 100), killed=True), None, id="killed: wait for its end"),
    ],
)
def test_the_next_step_at_100_seconds(observed: Observed, expected: Action | None) -> None:
    assert decide(observed, 100, ENGINE) is expected


def test_a_gateway_that_ended_is_started_at_once_the_first_time() -> None:
    assert decide(Observed(ends=(crashed(100),)), 100, GATEWAY) is Action.START
    assert decide(Observed(ends=(crashed(90), crashed(100))), 100, GATEWAY) is None


def test_a_gateway_that_was_asked_to_end_has_as_long_as_its_requests_have() -> None:
    assert decide(replace(READY, stop=Stop(900, 903), terms=(10,)), 100, GATEWAY) is None


def test_an_end_after_a_long_ready_time_begins_a_new_row() -> None:
    row = (crashed(1), crashed(2))
    assert ends_after(row, crashed(500, ready_seconds=299), ENGINE) == (*row, crashed(500, 299))
    assert ends_after(row, crashed(500, ready_seconds=300), ENGINE) == (crashed(500, 300),)


def test_what_a_program_said_itself_is_not_for_clients() -> None:
    assert str(End(1, None, "exit status 1", last_line="ValueError: SECRET")) == "exit status 1: ValueError: SECRET"
    assert End(1, None, "exit status 1", last_line="ValueError: SECRET").for_clients == "exit status 1"
    known = End(1, None, "exit status 1", "the disk is full", "OSError: 28")
    assert str(known) == known.for_clients == "exit status 1: the disk is full"


def test_failures_that_differ_in_numbers_alone_are_the_same() -> None:
    ends = tuple(failed(at, f"(EngineCore pid={4000 + at}) tried to allocate {at}.5 GiB") for at in (1, 2, 3))
    assert stays_down(ends, ENGINE)


@dataclass(frozen=True, slots=True)
class Life:
    """What a simulated program does once it is started."""

    boot_seconds: float | None
    """How long until it is ready; None if it fails instead."""
    life_seconds: float
    """How long from its start until it ends by itself."""
    dies_of_term: bool = True


class World:
    """One program on a clock that advances by 0.25 s; it acts on what is decided and checks that this makes sense."""

    def __init__(self, lives: list[Life], limits: Limits) -> None:
        self.now = 0.0
        self.observed = Observed()
        self.starts: list[float] = []
        self._lives = lives
        self._limits = limits

    def step(self) -> None:
        action = decide(self.observed, self.now, self._limits)
        if action is Action.START:
            assert not self.observed.running and self.observed.stop is None
            self.starts.append(self.now)
            self.observed = replace(self.observed, running=True, ready_at=None, terms=())
        elif action is Action.TERM:
            self.observed = replace(self.observed, terms=(*self.observed.terms, self.now))
            if self._life.dies_of_term:
                self._end("exit status 0")
        elif action is Action.KILL:
            self._end("killed by SIGKILL")
        self.now += 0.25
        self._live()

    @property
    def _life(self) -> Life:
        return self._lives[min(len(self.starts), len(self._lives)) - 1]

    def _live(self) -> None:
        if not self.observed.running:
            return
        age = self.now - self.starts[-1]
        if age >= self._life.life_seconds:
            self._end("exit status 1")
        elif self.observed.ready_at is None and self._life.boot_seconds is not None and age >= self._life.boot_seconds:
            self.observed = replace(self.observed, ready_at=self.now)

    def _end(self, how: str) -> None:
        ready = None if self.observed.ready_at is None else self.now - self.observed.ready_at
        ends = ends_after(self.observed.ends, End(self.now, ready, how, "boom"), self._limits)
        self.observed = replace(self.observed, running=False, ready_at=None, ends=ends)


def test_a_program_that_never_starts_is_tried_three_times() -> None:
    world = World([Life(None, 0.5)], ENGINE)
    for _ in range(4000):
        world.step()
    assert world.starts == [0, 1.5, 4]
    assert stays_down(world.observed.ends, ENGINE)


def test_a_program_that_keeps_crashing_is_started_ever_more_slowly_but_never_given_up() -> None:
    world = World([Life(1, 2)], ENGINE)
    while len(world.starts) < 10:
        world.step()
    pauses = [after - before - 2 for before, after in zip(world.starts, world.starts[1:], strict=False)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_delays_begin_anew_after_five_good_minutes() -> None:
    world = World([Life(1, 2), Life(1, 2), Life(1, 400), Life(1, 2)], ENGINE)
    while len(world.starts) < 4:
        world.step()
    assert world.starts[3] - world.starts[2] == 401


lives = st.builds(
    Life,
    boot_seconds=st.none() | st.floats(0.25, 30),
    life_seconds=st.floats(0.25, 1000),
    dies_of_term=st.booleans(),
)


@given(st.lists(lives, min_size=1, max_size=5), st.floats(0, 300), st.floats(0, 30), st.booleans())
def test_whatever_it_does_it_ends_by_the_deadline_once_it_is_told_to(
    its_lives: list[Life], stop_after: float, drain_seconds: float, drained: bool
) -> None:
    world = World(its_lives, ENGINE)
    while world.now < stop_after:
        world.step()
    started = len(world.starts)
    deadline = world.now + drain_seconds + 3
    world.observed = replace(world.observed, stop=Stop(world.now + drain_seconds, deadline), drained=drained)
    while world.now < deadline + 0.25:
        world.step()
    assert not world.observed.running
    for _ in range(400):
        world.step()
    assert len(world.starts) == started, "nothing that was told to end is started again"
