"""How a run gets to another number of replicas: which go, how many come, and what they are called. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dp_vllm.errors import BadSettings
from dp_vllm.spec import MOST_REPLICAS


@dataclass(frozen=True, slots=True)
class Resize:
    """One of both is empty."""

    leave: tuple[str, ...] = ()
    add: int = 0


def resize(names: Sequence[str], leaving: Collection[str], wanted: int) -> Resize:
    """From replicas of these names, of which some are about to leave, to so many; the last ones go first.

    Raises BadSettings for a number that cannot be.
    """
    if wanted < 1:
        raise BadSettings(
            f"-dp: {wanted} replicas cannot serve; to end the run, press Ctrl-C where it was started, or send SIGTERM "
            "to its supervisor, which `dp-vllm status` names"
        )
    if wanted > MOST_REPLICAS:
        raise BadSettings(f"-dp: {wanted} replicas are not allowed; at most {MOST_REPLICAS:,} are")
    staying = [name for name in names if name not in leaving]
    return Resize(leave=tuple(staying[wanted:]), add=max(0, wanted - len(staying)))


def free_numbers(taken: Collection[str], count: int) -> tuple[int, ...]:
    """The lowest so many numbers that are nobody's name."""
    most = len(taken) + count
    return tuple(number for number in range(most) if str(number) not in taken)[:count]
