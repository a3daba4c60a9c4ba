"""What a shell offers while a command line of dp-vllm is typed: flags, and the values that some of them have.

A program that click reads is completed by click. `serve` and `sim` read their words as vLLM does: they are completed
from the tables that they are read with. Nothing is imported before the command is known, for the shell waits.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from click import Command
from click.shell_completion import CompletionItem, ShellComplete

from dp_vllm.engine.flags import Flags, Takes, vllm_flags

Completes: TypeAlias = Callable[[Sequence[str], str], list[CompletionItem]]
"""What is offered after these words of a command for a word that begins so."""

_A_FILE = "file"


def of_click(module: str, name: str) -> Completes:
    """Of a command that click reads, found in this module under this name."""

    def complete(words: Sequence[str], begun: str) -> list[CompletionItem]:
        try:
            command = getattr(importlib.import_module(module), name)
        except SystemExit:
            return []  # an extra is not installed
        assert isinstance(command, Command)
        return ShellComplete(command, {}, "dp-vllm", "").get_completions(list(words), begun)

    return complete


def of_batch(words: Sequence[str], begun: str) -> list[CompletionItem]:
    """Of `batch`, which has flags of `serve` behind `--`."""
    if "--" in words:
        return of_serve(words[words.index("--") + 1 :], begun)
    return of_click("dp_vllm.batch.command", "main")(words, begun)


def of_serve(words: Sequence[str], begun: str) -> list[CompletionItem]:
    """Of `serve`, and of what takes the same flags."""
    from dp_vllm.local.flags import refusals, split
    from dp_vllm.local.flags.settings import SETTINGS

    helps = {setting.name: setting.meaning for setting in SETTINGS.values()}
    choices = {setting.name: setting.choices for setting in SETTINGS.values() if setting.choices}
    return _of_flags(split.FLAGS, words, begun, helps, choices, hidden=refusals.NAMES)


def of_sim(words: Sequence[str], begun: str) -> list[CompletionItem]:
    """Of the simulated engine."""
    from dp_vllm.sim import faults, options, settings

    helps = {setting.flag: setting.help for setting in settings.SETTINGS}
    kinds = (*faults.BOOT, *faults.SERVER, *faults.HEAD, *faults.BODY)
    flags = Flags(vllm_flags(), further=options.OWN_FLAGS)
    return _of_flags(flags, words, begun, helps, {settings.FAULT_FLAG: kinds}, hidden=frozenset())


def _of_flags(
    flags: Flags,
    words: Sequence[str],
    begun: str,
    helps: Mapping[str, str],
    choices: Mapping[str, Sequence[str]],
    hidden: frozenset[str],
) -> list[CompletionItem]:
    # Bash cuts a word at `=`.
    given = words[:-1] if words and words[-1] == "=" else words
    last = flags.read(given)[-1] if given else None
    flag = last.flag if last is not None and last.spelling else None
    if last is not None and flag is not None and _may_take_more(flag.takes, last.values, begun):
        values = choices.get(flag.name, flag.choices)
        if values:
            return [CompletionItem(value) for value in values if value.startswith(begun)]
        return [CompletionItem(begun, type=_A_FILE)]
    if not begun.startswith("-"):
        return [CompletionItem(begun, type=_A_FILE)]
    return sorted(_spelled(flags, begun, helps, hidden), key=lambda item: str(item.value))


def _may_take_more(takes: Takes, values: Sequence[str], begun: str) -> bool:
    if takes is Takes.ONE:
        return not values
    return not begun.startswith("-") and (takes is Takes.MANY or (takes is Takes.OPTIONAL and not values))


def _spelled(flags: Flags, begun: str, helps: Mapping[str, str], hidden: frozenset[str]) -> Iterator[CompletionItem]:
    for spelling in flags.spellings:
        name = flags[spelling].name
        if name not in hidden and spelling.startswith(begun.replace("_", "-")):
            yield CompletionItem(spelling, help=helps.get(name))
