"""Judges whether enough memory of the GPUs is free for an engine to start, and says who holds the rest. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from dp_vllm.doctor.finding import Finding, ok, problem, size, unknown, warning
from dp_vllm.doctor.nvml import Card

_IDLE_SHARE: Final = 0.02
"""Of a GPU's memory, what the driver itself may take."""


def held(cards: Mapping[int, Card], holders: Mapping[int, Sequence[str]], utilization: float) -> Iterator[Finding]:
    """vLLM starts only where as much is free as it may take: `utilization` of all.

    `cards` by index; `holders` for people, by the card's index.
    """
    clear = []
    for index, card in cards.items():
        if not card.total:
            yield unknown("GPU memory", f"GPU {index}: the driver does not say how much there is")
            continue
        who = f", held by {'; '.join(holders[index])}" if holders.get(index) else ""
        said = f"GPU {index}: {size(card.free)} of {size(card.total)} are free{who}"
        if card.free < card.total * utilization:
            yield problem("GPU memory", said, _freeing(card, utilization, anybody=bool(who)))
        elif card.free < card.total * (1 - _IDLE_SHARE) and who:
            yield warning("GPU memory", said, "it is enough to start, and others compute there too")
        else:
            clear.append(str(index))
    if clear:
        yield ok("GPU memory", f"nobody else holds memory of GPU {','.join(clear)}")


def _freeing(card: Card, utilization: float, *, anybody: bool) -> str:
    rest = int(card.free / card.total * 100 - 1) / 100
    lower = (
        f", or give --gpu-memory-utilization {rest:g} or less" if rest > 0.1 else ", or choose others (--device-ids)"
    )
    ending = "end what holds it" if anybody else "find what holds it (`nvidia-smi`, as root `fuser -v /dev/nvidia*`)"
    return f"{ending}: engines need {utilization:.0%} free{lower}"
