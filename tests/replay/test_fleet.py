"""Requests replayed before simulated engines: what becomes of each, and what a policy makes of all of them."""

import itertools
import random

import pytest

from dp_vllm.errors import UserError
from dp_vllm.policy import Policy
from dp_vllm.replay.fleet import Answer, Fleet, Sizes, arrivals
from dp_vllm.replay.report import Row, row
from dp_vllm.replay.trace import Request, from_zero, ideal_hit_rate
from dp_vllm.sim.engine import Pace

BLOCK = 100
"""Tokens of a block here."""

PACE = Pace(prefill_tokens_per_second=10_000, decode_step_seconds=0.02, decode_growth_seconds=0.001)


def sizes(replicas: int = 4, kv_blocks: int = 2000) -> Sizes:
    return Sizes(replicas, BLOCK, kv_blocks, PACE)


def request(at_seconds: float, tokens: int, completion: int, *blocks: int) -> Request:
    return Request(at_seconds, tokens, completion, blocks)


def replayed(requests: list[Request], policy: Policy, of: Sizes) -> list[Answer]:
    fleet = Fleet(of, policy)
    answers = list(fleet.run(arrivals(requests, of)))
    assert fleet.in_flight == 0
    return answers


def figures(requests: list[Request], policy: Policy, of: Sizes) -> Row:
    ideal = ideal_hit_rate(requests, BLOCK, of.replicas * of.kv_blocks)
    return row(replayed(requests, policy, of), ideal)


def conversations(count: int) -> list[Request]:
    """Each begins with some 2,000 tokens; each of its turns has all that was said before and 300 more."""
    rng, numbers, found = random.Random(1), itertools.count(), list[Request]()
    for _ in range(count):
        at, blocks = rng.uniform(0, 60), [next(numbers) for _ in range(rng.randint(10, 30))]
        for _ in range(rng.randint(1, 8)):
            found.append(Request(at, len(blocks) * BLOCK, rng.randint(5, 40), tuple(blocks)))
            at += rng.uniform(2, 10)
            blocks += [next(numbers) for _ in range(3)]
    return from_zero(sorted(found, key=lambda turn: turn.at_seconds))


def strangers(count: int) -> list[Request]:
    """Nothing is shared; one prompt of five is long."""
    rng, numbers, found = random.Random(2), itertools.count(), list[Request]()
    for _ in range(count):
        length = rng.randint(30, 120) if rng.random() < 0.2 else rng.randint(1, 10)
        blocks = tuple(next(numbers) for _ in range(length))
        found.append(Request(rng.uniform(0, 40), length * BLOCK, rng.randint(1, 60), blocks))
    return from_zero(sorted(found, key=lambda stranger: stranger.at_seconds))


def test_a_request_alone_takes_its_steps() -> None:
    [answer] = replayed([request(0.0, 250, 3, 1, 2)], Policy.PREFIX, sizes())
    assert (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens) == (250, 0, 3)
    assert answer.first_seconds == pytest.approx(0.02 + 0.025)
    assert answer.total_seconds == pytest.approx(0.045 + 2 * 0.021)


def test_a_request_that_comes_in_the_middle_of_a_step_waits_for_the_next_one() -> None:
    one, other = replayed([request(0.0, 1000, 1), request(0.05, 100, 1)], Policy.PREFIX, sizes(replicas=1))
    assert one.first_seconds == pytest.approx(0.12)
    assert other.first_seconds == pytest.approx(0.12 - 0.05 + 0.03)


def test_what_was_asked_before_is_not_read_again() -> None:
    turns = [request(0.0, 250, 1, 1, 2, 3), request(5.0, 400, 1, 1, 2, 4, 5)]
    first, again = replayed(turns, Policy.PREFIX, sizes())
    assert again.replica == first.replica
    assert again.cached_tokens == 200
    assert again.first_seconds == pytest.approx(0.02 + 0.02)


def test_the_same_block_behind_another_beginning_is_another_one() -> None:
    answers = replayed([request(0.0, 200, 1, 1, 2), request(5.0, 200, 1, 3, 2)], Policy.PREFIX, sizes(replicas=1))
    assert [answer.cached_tokens for answer in answers] == [0, 0]


def test_faster_means_that_requests_come_sooner() -> None:
    found = arrivals([request(0.0, 100, 1), request(6.0, 100, 1)], sizes(), speed=3.0)
    assert [arrival.at_seconds for arrival in found] == [0.0, 2.0]


def test_a_request_that_no_engine_can_hold_is_named_by_its_place_in_the_trace() -> None:
    with pytest.raises(UserError, match=r"--kv-blocks 3: request 7 needs 4 blocks for its 301 tokens"):
        arrivals([request(0.0, 200, 100), request(0.0, 300, 1)], sizes(kv_blocks=3), first=6)


@pytest.mark.parametrize("policy", Policy)
def test_every_request_has_its_answer_and_nothing_stays_behind(policy: Policy) -> None:
    requests = strangers(150) + conversations(20)
    answers = replayed(from_zero(sorted(requests, key=lambda it: it.at_seconds)), policy, sizes(kv_blocks=130))
    asked = sorted((it.prompt_tokens, it.completion_tokens) for it in requests)
    assert sorted((it.prompt_tokens, it.completion_tokens) for it in answers) == asked
    assert all(0 < it.first_seconds <= it.total_seconds for it in answers)


@pytest.mark.parametrize("policy", Policy)
def test_a_replay_has_the_same_course_every_time(policy: Policy) -> None:
    requests = conversations(20)
    assert replayed(requests, policy, sizes()) == replayed(requests, policy, sizes())


def test_more_than_a_gateway_lets_into_an_engine_is_answered_too() -> None:
    burst = [request(0.0, 50, 2)] * 2500
    assert len(replayed(burst, Policy.LEAST_LOAD, sizes(replicas=2))) == 2500


def test_on_one_replica_that_is_asked_one_after_the_other_the_hit_rate_is_the_ideal_one() -> None:
    turns = [request(20.0 * number, it.prompt_tokens, 1, *it.blocks) for number, it in enumerate(conversations(30))]
    assert figures(turns, Policy.PREFIX, sizes(replicas=1)).of_ideal == 1.0


def test_conversations_are_answered_sooner_by_those_who_know_them() -> None:
    requests = conversations(150)
    prefix = figures(requests, Policy.PREFIX, sizes())
    balanced = figures(requests, Policy.LEAST_LOAD, sizes())
    assert prefix.of_ideal is not None and prefix.of_ideal > 0.97
    assert balanced.hit_rate < 0.7 * prefix.hit_rate
    assert prefix.first_mean_seconds < 0.7 * balanced.first_mean_seconds
    assert prefix.first_p99_seconds <= balanced.first_p99_seconds


def test_where_nothing_is_shared_nothing_is_lost() -> None:
    requests = strangers(500)
    prefix = figures(requests, Policy.PREFIX, sizes())
    balanced = figures(requests, Policy.LEAST_LOAD, sizes())
    assert prefix.hit_rate == balanced.hit_rate == 0
    assert prefix.of_ideal is None
    assert prefix.first_mean_seconds <= 1.05 * balanced.first_mean_seconds
    assert prefix.first_p99_seconds <= 1.1 * balanced.first_p99_seconds


def test_one_common_beginning_does_not_call_all_to_one_replica() -> None:
    rng = random.Random(3)
    requests = [request(number / 5, 900, rng.randint(300, 500), *range(8), 100 + number) for number in range(150)]
    assert figures(requests, Policy.PREFIX, sizes()).busiest < 0.5
