"""Says which of a run's GPUs are another run's. Two engines on one GPU both want nearly all of its memory.

Only runs of the same user are known; whoever else holds memory there, the engine itself and `dp-vllm doctor` see it.
"""

from collections.abc import Mapping, Sequence

from dp_vllm.errors import UserError
from dp_vllm.local.deployment import Replica
from dp_vllm.local.run import Record


def demand_free(replicas: Sequence[Replica], others: Mapping[str, Record]) -> None:
    """Raise UserError if one of `others`, by name, has a GPU of these replicas."""
    held = {card: name for name, record in others.items() for card in record.cards}
    known = (replica for replica in replicas if replica.cards)
    wanted = {card: gpu for replica in known for gpu, card in zip(replica.gpus, replica.cards, strict=True)}
    taken = [(gpu, held[card]) for card, gpu in wanted.items() if card in held]
    if not taken:
        return
    run = taken[0][1]
    gpus = [gpu for gpu, name in taken if name == run]
    named = f"GPU {gpus[0]} is" if len(gpus) == 1 else f"GPUs {','.join(gpus)} are"
    raise UserError(
        f"{named} used by your run {run} (process {others[run].supervisor.pid}, {others[run].model}): end it, choose "
        "others with --device-ids, or let both share by giving each its --gpu-memory-utilization"
    )
