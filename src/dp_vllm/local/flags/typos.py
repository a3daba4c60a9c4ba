"""Flags that were typed in a way that neither vLLM nor we understand: what may have been meant."""

import difflib
import re
from typing import Final

from dp_vllm.engine.flags import Flags, Typed, flags_version
from dp_vllm.errors import BadSettings
from dp_vllm.spec.owned_flags import TWO_IN_ONE

_ALIKE: Final = 0.85
"""How alike two spellings must be (`difflib`'s ratio) to think that one was meant as the other."""


_OTHER_NAMES: Final = {
    "-dp": (
        *("--dp", "--dp-size", "--dp-replicas", "--data-parallel", "--data-parallelism", "--data-parallel-degree"),
        *("--replicas", "--replica", "--num-replicas", "--replica-count", "--n-replicas", "--min-replicas"),
        *("--copies", "--num-copies", "--instances", "--num-instances", "--num-engines", "--engines"),
        *("--number-of-replicas", "--data-parallel-replicas"),
    ),
    "-tp": (
        *("--tp", "--tp-size", "--tensor-parallelism", "--tensor-parallel-degree", "--tensor-parallel-shards"),
        *("--num-shard", "--num-gpus", "--gpus-per-replica", "--num-gpus-per-replica", "--gpu-count"),
    ),
    "-pp": ("--pp", "--pp-size", "--pipeline-parallelism", "--pipeline-parallel-degree"),
}
"""Flags of vLLM by what other servers and the DPModel call them."""
_LONG: Final = {"-dp": "data-parallel-size", "-tp": "tensor-parallel-size", "-pp": "pipeline-parallel-size"}


def demand_no_other_name(item: Typed, source: str) -> None:
    """Raise BadSettings for a flag of ours that was called as another server calls it."""
    name = item.spelling.replace("_", "-").lower()
    meant = next((ours for ours, others in _OTHER_NAMES.items() if name in others), None)
    if item.flag is not None or meant is None:
        return
    if source != item.spelling:
        raise BadSettings(f"{source}: no flag is called so; write {_LONG[meant]}")
    raise BadSettings(f"{source} is no flag; write {' '.join((meant, *item.values[:1]))}")


def demand_apart(item: Typed) -> None:
    """Raise BadSettings for a word with a flag and more in it, as `"--model demo/m"` in quotes is."""
    for word in item.words:
        is_model = not item.spelling and not word.startswith(("/", ".", "~"))
        if re.match(TWO_IN_ONE, word.lstrip()) or (is_model and re.search(r"\s--?[A-Za-z][-\w]*(?:[\s=]|$)", word)):
            raise BadSettings(
                f"{word!r} is one word: a flag and its value are two, or one joined by =; check the quotes"
            )


def demand_clear(item: Typed, source: str, flags: Flags, ours: frozenset[str]) -> None:
    """Raise BadSettings for an abbreviation or a mistyped flag that may be one of `ours`.

    What is certainly not ours is the engine's to judge: it may be newer than our table.
    """
    if item.flag is not None or item.spelling in ("", "--"):
        return
    if item.candidates:
        if any(flags[spelling].name in ours for spelling in item.candidates):
            raise BadSettings(f"{source} may mean {' or '.join(item.candidates)}; write it out")
        return
    joined = re.fullmatch(r"(-[a-z]+)(\d+)", item.spelling)
    if joined and joined[1] in flags.spellings and flags[joined[1]].name in ours:
        raise BadSettings(f"{source} is no flag; write {joined[1]} {joined[2]}")
    meant = _nearest(item.spelling, [spelling for spelling in flags.spellings if flags[spelling].name in ours])
    if meant:
        raise BadSettings(
            f"{source} is no flag; did you mean {meant}? "
            f"(If your vLLM does have {item.spelling}, put it into a --config file)"
        )


def doubt(item: Typed, flags: Flags) -> str:
    """A sentence for a flag that is unknown but very like one of vLLM's; empty for any other."""
    if item.flag is not None or item.candidates or not item.spelling.startswith("--"):
        return ""
    meant = _nearest(item.spelling, list(flags.spellings))
    if not meant:
        return ""
    return f"{item.spelling} is not a flag of vLLM {flags_version()} ({meant} is); the engine gets it as you typed it"


def _nearest(spelling: str, known: list[str]) -> str:
    name = spelling.partition(".")[0].replace("_", "-")
    long = [one for one in known if one.startswith("--")]
    return next(iter(difflib.get_close_matches(name, long, 1, _ALIKE)), "") if name.startswith("--") else ""
