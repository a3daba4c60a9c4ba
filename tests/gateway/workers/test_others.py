"""What is known of the other workers, and what follows from it for the pool."""

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dp_vllm.endpoints import Endpoint, EndpointSet, State
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.member import NOWHERE, InFlight, Seen
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.workers.news import Load, Standing
from dp_vllm_gateway.workers.others import SILENT_SECONDS, Others

LOADS = st.lists(
    st.builds(
        Load,
        st.sampled_from("ab"),
        st.sampled_from(["1", "2"]),
        st.integers(0, 5),
        st.integers(0, 5),
        st.integers(0, 5),
    ),
    unique_by=lambda load: (load.replica, load.incarnation),
    max_size=4,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 3), LOADS.map(lambda loads: Standing(queued=len(loads), loads=tuple(loads)))),
        st.tuples(st.integers(1, 3), st.none()),
        st.sampled_from([0.5, SILENT_SECONDS]),
    ),
    max_size=12,
)


@given(STEPS)
def test_the_last_word_of_each_counts_until_it_dies_or_falls_silent(
    steps: list[tuple[int, Standing | None] | float],
) -> None:
    others, now = Others(), 100.0
    expected: dict[int, tuple[Standing, float]] = {}
    for step in steps:
        if isinstance(step, float):
            now += step
            continue
        worker, standing = step
        if standing is None:
            others.died(worker)
            expected.pop(worker, None)
        else:
            others.hear(worker, standing, now)
            expected[worker] = (standing, now)
    heard = [standing for standing, at in expected.values() if now - at < SILENT_SECONDS]
    sequences = Counter[tuple[str, str]]()
    for standing in heard:
        for load in standing.loads:
            sequences[load.replica, load.incarnation] += load.sequences
    assert {engine: it.sequences for engine, it in others.elsewhere(now).items()} == dict(sequences)
    assert others.in_line(now) == sum(standing.queued > 0 for standing in heard)
    assert others.alive() == set(expected)
    assert others.standings() == [standing for standing, _ in expected.values()], "silent or not"


async def pool_of_two(most_sequences: int) -> Pool:
    pool = Pool(connect_seconds=1, clock=lambda: 0.0, most_sequences=most_sequences)
    names = ("a", "b")
    pool.sync(EndpointSet(1, tuple(Endpoint(name, "h:1", "1", State.READY) for name in names)))
    for name in names:
        pool.observe(name, "1", Seen(healthy=True, certain=True))
    return pool


ELSEWHERE = st.dictionaries(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["1", "2"])),
    st.builds(InFlight, st.integers(0, 5), st.integers(0, 5), st.integers(0, 500)),
)


@given(st.lists(st.one_of(ELSEWHERE, st.sampled_from("ab")), max_size=10))
def test_what_is_elsewhere_adds_to_what_is_in_flight_from_here(
    steps: list[dict[tuple[str, str], InFlight] | str],
) -> None:
    with asyncio.Runner() as runner:
        pool = runner.run(pool_of_two(1024))
        own, elsewhere = Counter[str](), dict[tuple[str, str], InFlight]()
        for step in steps:
            if isinstance(step, dict):
                elsewhere = step
                pool.count_elsewhere(elsewhere, in_line=0)
            else:
                member = pool.member(step)
                assert member is not None
                pool.lease(member, Facts(stream=True, sequences=2, tokens=10)).__enter__()
                own[step] += 1
        for member in pool.members():
            count, there = own[member.name], elsewhere.get((member.name, "1"), NOWHERE)
            assert member.own == InFlight(count, 2 * count, 10 * count)
            assert member.sequences == 2 * count + there.sequences
            assert member.waiting_tokens == 10 * count + there.waiting_tokens


def test_what_is_elsewhere_takes_room_and_its_end_gives_it_back() -> None:
    with asyncio.Runner() as runner:
        pool = runner.run(pool_of_two(2))
        rooms: list[None] = []
        pool.on_room = lambda: rooms.append(None)
        pool.count_elsewhere({("a", "1"): InFlight(2, 2, 0)}, in_line=0)
        assert [member.name for member in pool.candidates(Facts())] == ["b"]
        rooms.clear()
        pool.count_elsewhere({}, in_line=0)
        assert rooms and [member.name for member in pool.candidates(Facts())] == ["a", "b"]


def test_while_others_wait_each_process_has_its_share_of_the_room() -> None:
    with asyncio.Runner() as runner:
        pool = runner.run(pool_of_two(4))
        a, b = pool.members()
        for _ in range(2):
            pool.lease(a, Facts()).__enter__()
        pool.count_elsewhere({("a", "1"): InFlight(1, 1, 0), ("b", "1"): InFlight(4, 4, 0)}, in_line=1)
        assert pool.candidates(Facts()) == [], "half of a is in use from here; b is full"
        pool.count_elsewhere({("a", "1"): InFlight(1, 1, 0), ("b", "1"): InFlight(4, 4, 0)}, in_line=0)
        assert pool.candidates(Facts()) == [a]
        pool.count_elsewhere({("a", "1"): InFlight(1, 1, 0), ("b", "1"): InFlight(3, 3, 0)}, in_line=1)
        assert pool.candidates(Facts()) == [b]
