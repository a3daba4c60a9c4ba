"""Which endpoint a request goes to. The rules are pure; the router keeps whose turn it is."""

import random
from collections.abc import Sequence
from typing import Final

import xxhash

from dp_vllm.policy import PREFIX_WEIGHT, Policy
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.routing.choice import Candidate, Choice, View
from dp_vllm_gateway.routing.load import STEP_SECONDS, Load

BOUND: Final = 1.25
"""How many times the mean of sequences in flight a replica may have before a consistent hash passes it over.

After Mirrokni, Thorup, Zadimoghaddam: Consistent Hashing with Bounded Loads (2016)."""

_MOST_SEQUENCES: Final = 1 << 32
"""More than an engine can have: one step of waiting outweighs any number of sequences."""

_PREFIX: Final = Policy.PREFIX
_LEAST_LOAD: Final = Policy.LEAST_LOAD


class Router:
    """Chooses an endpoint for each request."""

    def __init__(self, policy: Policy, *, rng: random.Random, prefix_weight: float = PREFIX_WEIGHT) -> None:
        self._policy = policy
        self._prefix_weight = prefix_weight
        self._rng = rng
        self._turn = 0

    def choose(
        self, candidates: Sequence[Candidate], facts: Facts, *, watched: bool = False
    ) -> Choice[Candidate] | None:
        """Choose from `candidates`, all of them available; None if there are none. Ties take turns.

        If it is `watched`, the choice has what it saw.
        """
        if not candidates:
            return None
        turn = self._turn
        self._turn += 1
        policy = self._policy
        if facts.blocks and policy is _PREFIX:
            return by_prefix(candidates, facts, self._prefix_weight, turn, watched=watched)
        if policy is _PREFIX or policy is _LEAST_LOAD:
            return Choice(by_turn(least(candidates), turn), "least-load", views=views(candidates) if watched else ())
        return self._by_other(policy, candidates, facts, turn, watched=watched)

    def _by_other(
        self, policy: Policy, candidates: Sequence[Candidate], facts: Facts, turn: int, *, watched: bool
    ) -> Choice[Candidate]:
        reason = policy.value
        match policy:
            case Policy.ROUND_ROBIN:
                picked = by_turn(candidates, turn)
            case Policy.POWER_OF_TWO:
                candidates = self._rng.sample(candidates, min(2, len(candidates)))
                picked = by_turn(least(candidates), turn)
            case Policy.SESSION if facts.affinity:
                picked = max(candidates, key=lambda it: affinity(it, facts))
            case Policy.CONSISTENT_HASH if facts.affinity:
                picked = bounded(candidates, facts)
            case _:
                picked, reason = by_turn(least(candidates), turn), "least-load"
        return Choice(picked, reason, views=views(candidates) if watched else ())


def views(candidates: Sequence[Load]) -> list[View]:
    """The endpoints' loads as they are now."""
    return [(it, it.waiting_tokens, it.tokens_per_second, it.sequences, it.handicap) for it in candidates]


def seconds_of(cost: int) -> float:
    """What `by_prefix` compares, in whole engine steps: below 0 if more is saved than has to be waited for."""
    return cost // _MOST_SEQUENCES * STEP_SECONDS


def by_turn(tied: Sequence[Candidate], turn: int) -> Candidate:
    """One of those that are equally good."""
    return tied[turn % len(tied)]


def least(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those with the least expected wait, in whole engine steps, and of them those with the fewest sequences."""
    loads = [
        int(it.waiting_tokens / (it.tokens_per_second * STEP_SECONDS)) * _MOST_SEQUENCES + it.sequences + it.handicap
        for it in candidates
    ]
    return _those(candidates, loads)


def by_prefix(
    candidates: Sequence[Candidate], facts: Facts, weight: float, turn: int, *, watched: bool
) -> Choice[Candidate]:
    """The one with the least `expected wait - weight x prefill time saved`, in steps, and one for each sequence there.

    What one more sequence costs is a slower step for each token of the answers (docs/adr/0009).
    """
    depths = [it.remembered.depth(facts.blocks) for it in candidates]
    worth = weight * facts.block_tokens
    costs = [
        (int((it.waiting_tokens - worth * depth) / it.tokens_per_second // STEP_SECONDS) + sequences) * _MOST_SEQUENCES
        + sequences
        for it, depth in zip(candidates, depths, strict=True)
        for sequences in (it.sequences + it.handicap,)
    ]
    picked = by_turn(_those(candidates, costs), turn)
    depth = depths[candidates.index(picked)]
    cached = int(depth * facts.block_tokens)
    reason = f"prefix {cached / facts.tokens:.2f}" if depth else "least-load"
    return (
        Choice(picked, reason, cached, views(candidates), depths, costs) if watched else Choice(picked, reason, cached)
    )


def bounded(candidates: Sequence[Candidate], facts: Facts) -> Candidate:
    """The first in this prompt's own order of all endpoints that has no more than its share in flight."""
    allowed = BOUND * (sum(it.sequences for it in candidates) + facts.sequences) / len(candidates)
    light = [it for it in candidates if it.sequences <= allowed]
    return max(light or candidates, key=lambda it: affinity(it, facts))


def affinity(candidate: Load, facts: Facts) -> int:
    """How much a request that has an affinity likes an endpoint: whoever computes it comes to the same number.

    After Thaler, Ravishankar: A Name-Based Mapping Scheme for Rendezvous (1996).
    """
    return xxhash.xxh3_64_intdigest(candidate.name.encode(), facts.affinity)


def _those(candidates: Sequence[Candidate], costs: list[int]) -> list[Candidate]:
    least_cost = min(costs)
    if costs.count(least_cost) == 1:
        return [candidates[costs.index(least_cost)]]
    return [it for it, cost in zip(candidates, costs, strict=True) if cost == least_cost]
