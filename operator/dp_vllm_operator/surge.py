"""What becomes of a new replica for which there is no place: an old one makes room, or a person is told. Pure."""

from dp_vllm.spec import Strategy
from dp_vllm_operator.fleet import Fleet
from dp_vllm_operator.replica import Replica
from dp_vllm_operator.scale_down import Choice, Loads, choose


def make_room(fleet: Fleet, loads: Loads) -> Choice:
    """The old replica that ends because the one more that was made has no place, if the strategy allows it.

    Drain does not ask why it has none. Auto wants to hear of accelerators, for long enough, and that one old replica
    frees as many as are asked for. Neither goes on while something ends anyway: that may be room enough.
    """
    wanted, waiting = fleet.wanted, without_place(fleet)
    if waiting is None or fleet.ending:
        return Choice()
    if wanted.strategy is Strategy.DRAIN:
        candidates = fleet.old
    elif wanted.strategy is Strategy.AUTO and wanted.replicas > 1 and blocked(waiting, fleet):
        candidates = tuple(old for old in fleet.old if waiting.lacks_accelerators and _frees_enough(old, waiting))
    else:
        return Choice()
    choice = choose(1, fleet.spare(candidates, wanted.replicas - 1), fleet, loads)
    if choice.replicas and _has_waited_long(waiting, fleet):
        return Choice((*choice.replicas, waiting), choice.tied)
    return choice


def without_place(fleet: Fleet) -> Replica | None:
    """The new replica that a step has made, if it is still on no node, and the only one that does not serve yet."""
    starting = fleet.starting
    return starting[0] if fleet.surplus == 1 and len(starting) == 1 and not starting[0].bound else None


def blocked(waiting: Replica, fleet: Fleet) -> bool:
    """Whether it lacks something that an old replica has, and has lacked it for long enough."""
    since = waiting.unscheduled_since
    waited = since is not None and fleet.now - since >= fleet.wanted.surge_timeout_seconds
    return waited and "Insufficient " in waiting.unscheduled_message


def advice(waiting: Replica, fleet: Fleet) -> str:
    """What a person can do for a blocked replica that will not get a place by itself."""
    if not any(_frees_enough(old, waiting) for old in fleet.old):
        return "it asks for more than one old replica frees: lower spec.replicas until it fits"
    if fleet.wanted.replicas == 1:
        return "set rollout.strategy: Drain to accept downtime"
    if waiting.lacks_accelerators:
        return "set rollout.strategy: Auto to let one old replica end first"
    return "set rollout.strategy: Drain to let one old replica end first"


def _frees_enough(old: Replica, waiting: Replica) -> bool:
    return all(old.accelerators.get(resource, 0) >= asked for resource, asked in waiting.accelerators.items())


def _has_waited_long(waiting: Replica, fleet: Fleet) -> bool:
    """It is made anew then, so that the progress deadline leaves it time: half of it at least."""
    return not waiting.gated and fleet.now - waiting.created_at > fleet.wanted.progress_deadline_seconds / 2
