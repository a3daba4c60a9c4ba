"""Judges this machine's GPUs: that there are some, that vLLM's PyTorch can use them, what joins them. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

from dp_vllm.doctor.finding import Finding, ok, problem, size, unknown, warning
from dp_vllm.doctor.installed import Installed
from dp_vllm.doctor.nvml import Card, Cards
from dp_vllm.local.deployment import Replica

_DRIVERS: Final = {11: "R450", 12: "R525", 13: "R580"}
"""The oldest driver for each major version of CUDA (docs.nvidia.com/deploy/cuda-compatibility)."""
_BFLOAT16: Final = (8, 0)
"""Compute capability from which on vLLM takes bfloat16."""


def gpus(cards: Cards) -> Iterator[Finding]:
    """Which there are."""
    if cards.problem:
        yield problem("GPUs", cards.problem, "without one: --engine sim, or a vLLM that was built for CPUs")
        return
    if not cards.cards:
        yield problem(
            "GPUs", f"the driver {cards.driver} has none", "look at `nvidia-smi -L` and `lspci | grep -i nvidia`"
        )
        return
    listed = ", ".join(f"{count} x {name}" for name, count in _counted(cards.cards).items())
    yield ok("GPUs", f"{listed}, driver {cards.driver}")
    for index, card in enumerate(cards.cards):
        if card.divided:
            yield warning(
                "MIG",
                f"GPU {index} is divided, and only its parts can be used",
                "name them in CUDA_VISIBLE_DEVICES=MIG-... (`nvidia-smi -L` lists them), one for each replica",
            )


def _counted(cards: Sequence[Card]) -> dict[str, int]:
    names = [f"{card.name or 'GPU'}{f' ({size(card.total)})' if card.total else ''}" for card in cards]
    return {name: names.count(name) for name in names}


def cuda(cards: Cards, installed: Installed) -> Iterator[Finding]:
    """Whether the driver can run the CUDA that vLLM's PyTorch was built with.

    Within a major version an older driver runs what was built with a newer CUDA (minor version compatibility).
    """
    if installed.torch is None:
        yield unknown("CUDA", "no PyTorch was found beside vLLM", "look at `pip show torch` in vLLM's environment")
        return
    built = f"PyTorch {installed.torch}"
    if installed.cuda is None:
        yield problem(
            "CUDA",
            f"{built} was built without CUDA",
            "install vLLM with the PyTorch that it asks for: pip install vllm",
        )
    elif not cards.cuda:
        yield unknown("CUDA", f"{built} needs CUDA {_dotted(installed.cuda)}; the driver does not say what it has")
    elif cards.cuda[0] < installed.cuda[0]:
        oldest = _DRIVERS.get(installed.cuda[0])
        yield problem(
            "CUDA",
            f"{built} needs CUDA {_dotted(installed.cuda)}, the driver {cards.driver} has {_dotted(cards.cuda)}",
            f"update the driver{f' to {oldest} or newer' if oldest else ''}, or take a vLLM for CUDA {cards.cuda[0]}",
        )
    else:
        yield ok("CUDA", f"{built} needs {_dotted(installed.cuda)}, the driver has {_dotted(cards.cuda)}")


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def nvlinks(cards: Cards) -> Iterator[Finding]:
    """NVLinks that are down, and switches that are not set up."""
    waiting = [str(index) for index, card in enumerate(cards.cards) if card.fabric_waits]
    if waiting:
        yield problem(
            "NVLink",
            f"the switches between the GPUs {','.join(waiting)} are not set up",
            "start NVIDIA's fabric manager, in the driver's version: systemctl start nvidia-fabricmanager",
        )
    most = {card.name: max(each.nvlinks for each in cards.cards if each.name == card.name) for card in cards.cards}
    for index, card in enumerate(cards.cards):
        if 0 < card.nvlinks < most[card.name]:  # one without any may just have no bridge
            yield warning(
                "NVLink",
                f"GPU {index} has {card.nvlinks} working links, others like it {most[card.name]}",
                f"look at `nvidia-smi nvlink -s -i {index}` and the kernel's log; leave it out with --device-ids",
            )


def links(cards: Cards, replicas: Sequence[Replica]) -> Iterator[Finding]:
    """What joins the GPUs of each replica."""
    joined = {replica.name: replica.worst_link for replica in replicas if len(replica.gpus) > 1}
    known = {name: link for name, link in joined.items() if link is not None}
    if known:
        yield ok("links", "; ".join(f"replica {name}: {link}" for name, link in known.items()))
    elif joined:
        yield unknown(
            "links", "what joins the GPUs of a replica is not known", "give groups with --gpu-groups '0,1;2,3'"
        )
    if any(card.nvlinks for card in cards.cards) and any(not link.startswith("NV") for link in known.values()):
        yield warning(
            "links",
            "a replica has GPUs without NVLink between them, and this machine has NVLinks",
            "`dp-vllm topo` shows which GPUs belong together; a smaller -tp may keep to them",
        )


def number_format(cards: Sequence[Card], dtype: str) -> Iterator[Finding]:
    """Whether these GPUs know the number format."""
    old = [card for card in cards if card.capability and card.capability < _BFLOAT16]
    if not old or dtype not in ("auto", "bfloat16"):
        return
    said = f"{old[0].name or 'a GPU'} (compute capability {_dotted(old[0].capability)}) does not know bfloat16"
    if dtype == "bfloat16":
        yield problem("dtype", said, "give --dtype half")
    else:
        yield ok("dtype", f"{said}: vLLM takes float16 for such models")
