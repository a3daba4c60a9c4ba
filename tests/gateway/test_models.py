"""Several models behind one gateway: which endpoints a request may go to, and what is said where there is none."""

from contextlib import ExitStack

import pytest

from dp_vllm.endpoints import Endpoint, EndpointSet, State
from dp_vllm_gateway import refusals
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.member import Seen
from dp_vllm_gateway.pool import SLOW_START_SECONDS, Pool

HEALTHY = Seen(healthy=True, certain=True)
A, B = Facts(model="a"), Facts(model="b")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def pool(clock: Clock) -> Pool:
    """One endpoint of `a`, three of `b`, of which no engine has said anything yet."""
    pool = Pool(connect_seconds=1, clock=clock, most_sequences=1)
    named = [("a-0", "a"), ("b-0", "b"), ("b-1", "b"), ("b-2", "b")]
    pool.sync(
        EndpointSet(1, tuple(Endpoint(name, f"unix:/{name}", models=(model, f"{model}!")) for name, model in named))
    )
    return pool


def see(pool: Pool, *names: str) -> None:
    for name in names:
        pool.observe(name, "", HEALTHY)


def picked(pool: Pool, facts: Facts) -> list[str]:
    return [member.name for member in pool.candidates(facts)]


async def test_what_is_known_beforehand_counts_before_any_engine_was_asked(pool: Pool) -> None:
    assert pool.several_models
    assert pool.models() == ["a", "a!", "b", "b!"]
    see(pool, "b-0")
    assert (picked(pool, A), picked(pool, B), picked(pool, Facts(model="b!"))) == ([], ["b-0"], ["b-0"])


@pytest.mark.parametrize(
    ("model", "status", "message"),
    [
        (None, 400, "`model` is missing. Served are: a, a!, b, b!."),
        ("\ud800", 404, "The model `?` does not exist. Served are: a, a!, b, b!."),
        ("x" * 10_000, 404, f"The model `{'x' * 200}` does not exist. Served are: a, a!, b, b!."),
        ("c", 404, "The model `c` does not exist. Served are: a, a!, b, b!."),
        ("a", 503, "no replica of a is available (0 of 1); replica a-0: starting - a-0 loads"),
    ],
)
async def test_a_refusal_speaks_of_the_model_that_was_asked_for(
    pool: Pool, model: str | None, status: int, message: str
) -> None:
    down = Endpoint("b-0", "unix:/b-0", state=State.DOWN, message="b-0 ended", models=("b",))
    starting = Endpoint("a-0", "unix:/a-0", state=State.STARTING, message="a-0 loads", models=("a", "a!"))
    pool.sync(EndpointSet(2, (starting, down, *(member.endpoint for member in pool.members()[2:]))))

    refusal = refusals.none_fits(pool, Facts(model=model))

    assert (refusal.status, refusal.message) == (status, message)


async def test_only_for_a_model_that_may_come_is_it_worth_waiting(pool: Pool) -> None:
    see(pool, "b-0")
    assert [pool.lacks(model) for model in ("a", "b", "c", None)] == [True, False, False, False]


async def test_where_all_of_one_model_are_ejected_that_is_not_believed(pool: Pool) -> None:
    see(pool, "a-0", "b-0", "b-1", "b-2")
    for name in ("a-0", "b-1"):
        member = pool.member(name)
        assert member is not None
        pool.not_connected(member)
    assert picked(pool, A) == ["a-0"]
    assert picked(pool, B) == ["b-0", "b-2"]


async def test_who_waits_for_room_at_one_model_hears_of_it_whatever_the_other_is_asked(pool: Pool) -> None:
    see(pool, "a-0", "b-0")
    room = []
    pool.on_room = lambda: room.append("")
    member = pool.member("a-0")
    assert member is not None
    with pool.lease(member, A):
        assert picked(pool, A) == []
        assert picked(pool, B) == ["b-0"], "it is not full"
    assert room
    assert picked(pool, A) == ["a-0"]


async def test_a_new_replica_is_compared_with_those_of_its_model(pool: Pool, clock: Clock) -> None:
    see(pool, "a-0", "b-0", "b-1")
    clock.now += SLOW_START_SECONDS
    pool.tick()
    a, b = pool.member("a-0"), pool.member("b-0")
    assert a is not None and b is not None
    with ExitStack() as leases:
        for _ in range(10):
            leases.enter_context(pool.lease(a, A))
        for _ in range(4):
            leases.enter_context(pool.lease(b, B))
        see(pool, "b-2")
        assert [member.handicap for member in pool.members()] == [0, 0, 0, 2]
