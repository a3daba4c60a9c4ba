"""What goes on while no old replica is replaced: the rollout is paused, or stalled. Pure.

A rollout stalls when a replica of the target is not Ready `progress_deadline_seconds` after it was made, came to its
node or was last Ready. One without a node counts only if it has taken an old one's place, and nothing is about to make
room; one behind a scheduling gate never does. The caller keeps when that was found out (`Wanted.stalled_at`), and puts
it on record before it does what the plan says. The stall ends when a replica of the target gets Ready after that and
none is overdue any more, when nothing is left to replace, with another target, and with a pause.

While it is stalled, as many as wanted shall serve. Replicas of the target that are overdue or without a node are given
up: others are made of the fallback in their place. One of them is kept, because it may get Ready after all, and tells a
person what is wrong; it ends if it is on a node and there is no place for one that is to serve. Without a fallback
nothing better can be made, and all are kept.

While it is paused, missing replicas are made of the revision that most of the living have, and surplus ones end in the
order of every scale-down. So a replica that a step has just made ends too.
"""

import math
from collections import Counter

from dp_vllm import names
from dp_vllm_operator.fleet import Fleet
from dp_vllm_operator.replica import Replica
from dp_vllm_operator.scale_down import Loads, choose
from dp_vllm_operator.step import Delete, RolloutState, Step, counted, makeable


def is_stalled(fleet: Fleet) -> bool:
    """Whether the target has failed to get Ready in time."""
    late, stalled_at = [new for new in fleet.new if overdue(new, fleet)], fleet.wanted.stalled_at
    if not (fleet.old or fleet.starting or fleet.surplus):
        return False
    if stalled_at is None:
        placed = fleet.surplus <= 0 and not fleet.ending
        return any(new.bound or placed for new in late)
    # What is done because of a stall must not end it, so one on record asks less of those that are overdue.
    # Times of the cluster are whole seconds.
    return bool(late) or not any(new.ready_since and new.ready_since >= math.floor(stalled_at) for new in fleet.new)


def overdue(replica: Replica, fleet: Fleet) -> bool:
    """Whether it should have been Ready by now."""
    waited = fleet.now - replica.waiting_since
    return not replica.ready and not replica.gated and waited >= fleet.wanted.progress_deadline_seconds


def hold_out(fleet: Fleet, loads: Loads) -> Step:
    """Keep as many as wanted serving, whatever they are of."""
    fallback = _fallback(fleet)
    given_up = _given_up(fleet) if fallback != fleet.wanted.revision else ()
    counting = fleet.without(given_up)
    surplus = choose(counting.surplus, counting.live, counting, loads)
    wanted = fleet.wanted
    message = (
        f"a replica of revision {wanted.revision} was not Ready within {wanted.progress_deadline_seconds:g} seconds"
    )
    if fallback != wanted.revision:
        message += f"; revision {fallback} goes on serving"
    message += f"; to try again, change the spec or the annotation {names.RESTART_ANNOTATION}"
    return Step(
        state=RolloutState.STALLED,
        message=message,
        delete=(
            *(Delete(r, f"revision {wanted.revision} is given up for now") for r in given_up[_kept(given_up, fleet) :]),
            *(Delete(r, f"{wanted.replicas} wanted") for r in surplus.replicas),
        ),
        create=makeable(-counting.surplus, fleet),
        revision=fallback,
        purpose=f"{-counting.surplus} of {wanted.replicas} missing",
        tied=surplus.tied,
    )


def pause(fleet: Fleet, loads: Loads) -> Step:
    """Scale, and replace nothing."""
    wanted, revision = fleet.wanted, _of_most(fleet)
    surplus = choose(fleet.surplus, fleet.live, fleet, loads)
    message = f"paused: {len(fleet.old)} of {counted(len(fleet.live))} of an old revision"
    if revision is None and fleet.surplus < 0:
        message = "paused before the first replica: none is made until rollout.paused is false"
    return Step(
        state=RolloutState.PAUSED,
        message=message,
        delete=tuple(Delete(replica, f"{wanted.replicas} wanted") for replica in surplus.replicas),
        create=0 if revision is None else makeable(-fleet.surplus, fleet),
        revision=revision or 0,
        purpose=f"{-fleet.surplus} of {wanted.replicas} missing",
        tied=surplus.tied,
    )


def _given_up(fleet: Fleet) -> tuple[Replica, ...]:
    """The one that may be kept comes first: it is on a node, and the oldest."""
    lost = (new for new in fleet.new if not new.ready and (overdue(new, fleet) or not new.bound))
    return tuple(sorted(lost, key=lambda replica: (not replica.bound, replica.created_at, replica.number)))


def _kept(given_up: tuple[Replica, ...], fleet: Fleet) -> int:
    """How many of them. The last one goes only once the stall is on record: until then, it is all that tells of it."""
    if fleet.wanted.stalled_at is None or not given_up or not given_up[0].bound:
        return 1
    uids = {replica.uid for replica in given_up}
    return 0 if any(pod.unscheduled == "Unschedulable" for pod in fleet.live if pod.uid not in uids) else 1


def _fallback(fleet: Fleet) -> int:
    """What to make replicas of while the target is stalled; the target itself if nothing better is known."""
    target, known = fleet.wanted.revision, fleet.wanted.fallback
    if known is not None and known != target:
        return known
    serving = Counter(old.revision for old in fleet.old if old.available(fleet.now))
    return max(serving, key=lambda revision: (serving[revision], revision), default=target)


def _of_most(fleet: Fleet) -> int | None:
    """The revision that most of the living replicas have; of equals, that which serves more, then the fallback."""
    count = Counter(replica.revision for replica in fleet.live)
    serving = Counter(replica.revision for replica in fleet.live if replica.available(fleet.now))
    fallback = fleet.wanted.fallback
    return max(count, key=lambda r: (count[r], serving[r], r == fallback, r), default=fallback)
