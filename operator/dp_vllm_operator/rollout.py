"""How old replicas are replaced by new ones, a step at a time, while the others serve. Pure.

A step makes one new replica and ends one old one. The next step begins when every replica of the target revision has
been Ready for 5 seconds, and whatever is ending has ended, so that a rollout never holds the accelerators of more than
one further replica.

- Surge makes the new one first. An old one ends once one more than wanted is available.
- Drain ends an old one first. One less than wanted serves in the meantime; nobody, if one is wanted.
- Auto begins as Surge does. If the new one finds too few accelerators for `surge_timeout_seconds`, and asks for no more
  of them than an old one has, that one ends, and the new one, which has waited all the while, gets its place.
  The only replica never ends this way.

Old replicas whose engine has not started serve nothing and are replaced first: all of them at once between two steps,
and during a step one, instead of one that serves. Those that started but are not Ready may serve all the same (a
control plane that has lost its nodes calls every replica not Ready): each is replaced in a step of its own, before the
others.

Missing replicas are made at once, of the target. Surplus ones end at once, except the one that a step has made.
A replica that waits for a quota system (a scheduling gate) is waited for without end.
"""

from dp_vllm.spec import Strategy
from dp_vllm_operator import surge
from dp_vllm_operator.fleet import Fleet
from dp_vllm_operator.replica import Replica
from dp_vllm_operator.scale_down import Choice, Loads, choose
from dp_vllm_operator.step import Delete, RolloutState, Step, counted, makeable


def roll(fleet: Fleet, loads: Loads) -> Step:
    """The next step towards the wanted number of replicas, all of the target."""
    rest, delete, tied = fleet, list[Delete](), list[Replica]()
    for decide in (_not_running, _too_many, _replaced, _making_room):
        choice, why = decide(rest, loads)
        rest = rest.without(choice.replicas)
        delete += (Delete(replica, why) for replica in choice.replicas)
        tied += choice.tied
    create, purpose = makeable(-rest.surplus, rest), f"{-rest.surplus} of {rest.wanted.replicas} missing"
    if _may_begin(rest):
        choice, why = _drained(rest, loads)
        delete += (Delete(replica, why) for replica in choice.replicas)
        tied += choice.tied
        create, purpose = 1, "an old one is to be replaced"
    state, message = _state(fleet, acts=bool(delete))
    return Step(
        state=state,
        message=message,
        delete=tuple(delete),
        create=create,
        revision=fleet.wanted.revision,
        purpose=purpose,
        tied=tuple(tied),
    )


def _not_running(fleet: Fleet, loads: Loads) -> tuple[Choice, str]:
    """Old ones that serve nothing."""
    idle = tuple(old for old in fleet.old if not old.ready and not old.started)
    count = max(0, fleet.surplus) if fleet.starting else len(idle)
    return choose(count, idle, fleet, loads), f"it does not run, and revision {fleet.wanted.revision} takes its place"


def _too_many(fleet: Fleet, loads: Loads) -> tuple[Choice, str]:
    """More than are wanted, not counting the one that a step has made."""
    in_step = 1 if fleet.old else 0
    starting = sorted(fleet.starting, key=lambda replica: (not replica.bound, replica.created_at, replica.number))
    made = {replica.uid for replica in starting[:in_step]}
    candidates = [replica for replica in fleet.live if replica.uid not in made]
    return choose(fleet.surplus - in_step, candidates, fleet, loads), f"{fleet.wanted.replicas} wanted"


def _replaced(fleet: Fleet, loads: Loads) -> tuple[Choice, str]:
    """The old one whose place is taken, now that the new one is available."""
    over = fleet.surplus if not fleet.starting else 0
    candidates = fleet.spare(fleet.old, fleet.wanted.replicas)
    why = f"revision {fleet.wanted.revision} has taken its place" if fleet.new else f"{fleet.wanted.replicas} wanted"
    return choose(over, candidates, fleet, loads), why


def _making_room(fleet: Fleet, loads: Loads) -> tuple[Choice, str]:
    return surge.make_room(fleet, loads), f"revision {fleet.wanted.revision} needs its place"


def _may_begin(fleet: Fleet) -> bool:
    """Whether a step may begin: none is under way, nothing ends, and nothing has died of late."""
    under_way = fleet.starting or fleet.surplus != 0
    return bool(fleet.old) and not under_way and not fleet.ending and makeable(1, fleet) == 1


def _drained(fleet: Fleet, loads: Loads) -> tuple[Choice, str]:
    """The old one that ends before there is a new one."""
    count = 1 if fleet.wanted.strategy is Strategy.DRAIN else 0
    candidates = fleet.spare(fleet.old, fleet.wanted.replicas - 1)
    return choose(count, candidates, fleet, loads), f"revision {fleet.wanted.revision} takes its place"


def _state(fleet: Fleet, *, acts: bool) -> tuple[RolloutState, str]:
    wanted, starting = fleet.wanted, fleet.starting
    serving = f"{len(fleet.new) - len(starting)} of {counted(wanted.replicas)} of revision {wanted.revision} serve"
    if not (starting or fleet.old or fleet.surplus):
        return RolloutState.DONE, serving
    if gated := [replica.name for replica in starting if replica.gated]:
        return RolloutState.WAITING_FOR_QUOTA, f"{serving}; {gated[0]} waits for quota (a scheduling gate)"
    waiting = surge.without_place(fleet)
    if waiting and not acts and not fleet.ending and surge.blocked(waiting, fleet):
        return RolloutState.SURGE_UNSCHEDULABLE, f"{_without_place(waiting)}; {surge.advice(waiting, fleet)}"
    if unscheduled := [replica for replica in starting if replica.unscheduled_message]:
        serving += f"; {_without_place(unscheduled[0])}"
    if makeable(-fleet.surplus, fleet) < -fleet.surplus:
        serving += "; one that died is replaced after a while"
    if fleet.old:
        return RolloutState.ROLLING, serving
    return (RolloutState.FIRST_START if wanted.fallback is None else RolloutState.SCALING), serving


def _without_place(replica: Replica) -> str:
    return f"{replica.name} has no place: {replica.unscheduled_message.rstrip('.')}"
