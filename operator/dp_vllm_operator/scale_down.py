"""Which replicas end first: those whose loss hurts least. Pure.

In the order of: the user's `controller.kubernetes.io/pod-deletion-cost`; on no node yet; Pending; not Ready (for 5
seconds); an old revision; the fewest requests; the youngest. A deletion cost does not take the last replica that is
available, though: it stays, if any does.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from dp_vllm_operator.fleet import Fleet
from dp_vllm_operator.replica import Replica

Loads = Mapping[str, float | None]
"""Requests in each replica by its name. Missing or None: it was not asked, or did not answer."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The replicas that are to end."""

    replicas: tuple[Replica, ...] = ()
    tied: tuple[Replica, ...] = ()
    """Those of which only the loads decide."""


def choose(count: int, candidates: Iterable[Replica], fleet: Fleet, loads: Loads) -> Choice:
    """Choose `count` of them: none if that is negative, all if they are fewer."""
    count = max(0, count)
    order: list[Replica] = []
    tied: tuple[Replica, ...] = ()
    youngest_first = sorted(candidates, key=lambda replica: (*_rank(replica, fleet), *_youth(replica)))
    for _, equals in groupby(youngest_first, key=lambda replica: _rank(replica, fleet)):
        group = tuple(equals)
        if len(order) < count < len(order) + len(group) and group[0].available(fleet.now):
            tied = group
            group = _by_load(group, loads)
        order.extend(group)
    return Choice(_sparing_the_last(order[:count], order[count:], fleet), tied)


def _rank(replica: Replica, fleet: Fleet) -> tuple[int, int, bool]:
    stage = (replica.bound, replica.phase != "Pending", replica.available(fleet.now))
    return replica.deletion_cost, stage.index(False) if False in stage else len(stage), _is_new(replica, fleet)


def _is_new(replica: Replica, fleet: Fleet) -> bool:
    return replica.revision == fleet.wanted.revision


def _youth(replica: Replica) -> tuple[float, int]:
    return -replica.created_at, -replica.number


def _by_load(equals: tuple[Replica, ...], loads: Loads) -> tuple[Replica, ...]:
    """Whoever did not answer counts as having as little to do as the least busy of them."""
    known = {replica.name: load for replica in equals if (load := loads.get(replica.name)) is not None}
    least = min(known.values(), default=0.0)
    return tuple(sorted(equals, key=lambda replica: (known.get(replica.name, least), *_youth(replica))))


def _sparing_the_last(chosen: list[Replica], rest: list[Replica], fleet: Fleet) -> tuple[Replica, ...]:
    """Take another instead of the last one that is available, if there is another."""
    available = [replica for replica in chosen if replica.available(fleet.now)]
    if not available or not rest or len(available) < fleet.available:
        return tuple(chosen)
    return tuple(replica for replica in (*chosen, rest[0]) if replica is not available[-1])
