"""Print the flags of `vllm serve` as `src/dp_vllm/engine/flags.json` holds them, read from vLLM's own parser.

Runs with the Python into which vLLM was installed: `VLLM_LOGGING_LEVEL=ERROR python read_flags.py > flags.json`.
"""

import argparse
import json
import sys
from collections.abc import Iterable

from vllm.entrypoints.launchers.cli_args import make_arg_parser  # type: ignore[import-not-found]
from vllm.utils.argparse_utils import FlexibleArgumentParser  # type: ignore[import-not-found]
from vllm.version import __version__  # type: ignore[import-not-found]

KINDS: dict[int | str | None, str] = {None: "one", "?": "optional", "+": "many", "*": "many"}
REWRITTEN = {"-O": "--optimization-level"}
"""Spellings that vLLM replaces before it parses, so that its parser does not name them."""


def kind(action: argparse.Action) -> str:
    """How many words the flag takes from those that follow it."""
    if action.nargs == 0:
        return "switch" if any(spelling.startswith("--no-") for spelling in action.option_strings) else "nothing"
    return KINDS[action.nargs]


def table(actions: Iterable[argparse.Action], version: str) -> dict[str, object]:
    """The flags by the number of words that they take, their other spellings, and what the values of some may be."""
    flags: dict[str, list[str]] = {"nothing": [], "switch": [], "one": [], "optional": [], "many": []}
    also = dict(REWRITTEN)
    choices: dict[str, list[str]] = {}
    for action in actions:
        if not action.option_strings or action.dest == "help":
            continue
        spellings = [spelling for spelling in action.option_strings if not spelling.startswith("--no-")]
        name = next(spelling for spelling in spellings if spelling.startswith("--"))
        flags[kind(action)].append(name)
        if named := [str(choice) for choice in action.choices or () if choice is not None and str(choice)]:
            choices[name] = named
        also.update({spelling: name for spelling in spellings if spelling != name})
    sorted_flags = {kind: sorted(names) for kind, names in flags.items()}
    return {
        "vllm": version,
        **sorted_flags,
        "also": dict(sorted(also.items())),
        "choices": dict(sorted(choices.items())),
    }


def main() -> None:
    parser = make_arg_parser(FlexibleArgumentParser())
    json.dump(table(parser._actions, __version__.partition("+")[0]), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
