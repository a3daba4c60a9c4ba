"""Flags that belong to one model, typed where the models stand in a file: where to write them instead."""

from collections.abc import Iterable
from typing import Final

from dp_vllm.engine.flags import Typed
from dp_vllm.errors import BadSettings
from dp_vllm.spec import owned_flags

FILE: Final = "--file"

_CHOSEN: Final = "leave it out: the GPUs of each model are chosen among those of --device-ids"
_INSTEAD: Final = {
    "--data-parallel-size": "use spec.replicas",
    "--model": "use spec.model",
    "--prefill-context-parallel-size": "leave it out: a DPModel has no field for it",
    "--gpu-groups": _CHOSEN,
}


def demand_none(given: Iterable[tuple[str, Typed]], ours: Iterable[str]) -> None:
    """Raise BadSettings for the first item that belongs to one model; each comes with what it is called in messages.

    `ours` are the endpoint's flags.
    """
    free = set(ours) - _INSTEAD.keys() - {"--tensor-parallel-size", "--pipeline-parallel-size"}
    for source, item in given:
        if not item.spelling:
            raise BadSettings(
                f"MODEL: {item.words[0]!r} beside {FILE}, whose objects name the models; leave it out, or if it is "
                "another file, write -f before it"
            )
        if item.spelling != "--" and (item.flag is None or item.flag.name not in free):
            raise BadSettings(f"{source} belongs to one model, and the models are in {FILE}; {_instead(item)}")


def _instead(item: Typed) -> str:
    name = item.flag.name if item.flag else item.spelling
    if name in _INSTEAD:
        return _INSTEAD[name]
    owned = next((owned.instead for owned in owned_flags.OWNED if owned.has(name)), None)
    return owned or "write it into spec.engine.args"
