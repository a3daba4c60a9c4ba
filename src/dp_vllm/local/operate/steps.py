"""How far a change of a replica is, and in which order replicas are restarted. Pure: looks in, words out."""

from collections.abc import Sequence
from typing import NamedTuple

from dp_vllm.endpoints import State
from dp_vllm.local.operate.look import Look
from dp_vllm.local.plan import Then
from dp_vllm.local.standing import Replica


class Progress(NamedTuple):
    """Of one replica."""

    words: str
    done: bool = False
    failed: bool = False
    """It will not come to a good end; `words` say why."""


_OTHERWISE = Progress("somebody ordered otherwise meanwhile", failed=True)
_RUN_ENDS = Progress("the run is being ended", failed=True)


def rest(look: Look, name: str) -> Progress:
    """Of a replica that is to end and to stay down."""
    replica = look.replica(name)
    if replica is None or look.run.stopping:
        return _RUN_ENDS if look.run.stopping else _OTHERWISE
    if replica.ordered is not Then.STAY_DOWN:
        return _OTHERWISE
    if replica.state is State.DOWN and replica.pid is None:
        return Progress("down", done=True)
    return Progress(_ending(look, replica))


def leave(look: Look, name: str) -> Progress:
    """Of a replica that is to leave the run."""
    replica = look.replica(name)
    if look.run.stopping:
        return _RUN_ENDS
    if replica is None:
        return Progress("gone", done=True)
    return Progress(_ending(look, replica)) if replica.ordered is Then.LEAVE else _OTHERWISE


def come(look: Look, name: str, starts: int) -> Progress:
    """Of a replica that is to serve in another life than its first `starts`."""
    replica = look.replica(name)
    if replica is None or look.run.stopping:
        return _RUN_ENDS if look.run.stopping else _OTHERWISE
    if replica.starts <= starts and replica.ordered is Then.START:
        return Progress(_ending(look, replica))
    if replica.ordered is not None:
        return _OTHERWISE
    if replica.last_end is not None:
        return Progress(str(replica.last_end), failed=True)
    if look.serves(name):
        return Progress("serves", done=True)
    return Progress("ready, soon to be used" if replica.state is State.READY else _starting(replica))


def _starting(replica: Replica) -> str:
    return f"starting ({replica.message})" if replica.message else "starting"


def _ending(look: Look, replica: Replica) -> str:
    if replica.state is not State.DRAINING:
        return "ending"
    count = look.in_flight(replica.name)
    left = f", {replica.drain_seconds:.0f} s left" if replica.drain_seconds is not None else ""
    return f"draining, {count} in flight{left}" if count else "ending"


def order_of_roll(look: Look, names: Sequence[str] = ()) -> tuple[str, ...]:
    """Which replicas are restarted one after another: those that do not serve come first, as nothing is lost with them.

    Without names, all but those that were told to stay down, or to leave.
    """
    chosen = names or [one.name for one in look.run.replicas if one.ordered in (None, Then.START)]
    serving = look.serving
    return tuple(sorted(dict.fromkeys(chosen), key=serving.__contains__))


def objection(look: Look, name: str) -> str:
    """Why a roll must not go on to this replica; empty if it may."""
    this, serving = look.replica(name), look.serving
    others = [one for one in look.run.replicas if this and one.models == this.models and one.ordered is None]
    names = {one.name for one in others} - {name}
    if names and name in serving and not names & set(serving):
        return f"no other replica serves its model now, so without replica {name} none would"
    return ""
