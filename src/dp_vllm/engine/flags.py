"""Reads the words of a `vllm serve` command line as vLLM would, without vLLM: which word is a flag, which its value.

What must be known for that, every flag's spellings and how many words it takes, is in `flags.json`. It was read from
vLLM's own parser; to renew it, list `option_strings` and `nargs` of every action of the parser that
`vllm.entrypoints.launchers.cli_args.make_arg_parser(FlexibleArgumentParser())` returns in the version of the day:
nargs 0 is `nothing` (`switch` if there is a `--no-` twin), None `one`, "?" `optional`, "+" `many`; `also` maps the
other spellings to the first. `-O` is added by hand: vLLM rewrites it before it parses.
`tests/vllm/read_flags.py` makes the table anew from an installed vLLM.

Nothing here knows which flags are the endpoint's and which the engine's, or what any of them means.
"""

import enum
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

import msgspec


class Takes(enum.Enum):
    """How many words a flag takes from those that follow it. A value after `=` is always the only one."""

    NOTHING = "nothing"
    SWITCH = "nothing, and there is a --no- twin"
    ONE = "one"
    OPTIONAL = "at most one"
    MANY = "every word up to the next flag"


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of the command line."""

    name: str
    """Its long form: `--tensor-parallel-size`."""
    takes: Takes
    also: tuple[str, ...] = ()
    """Its other forms: `-tp`."""
    choices: tuple[str, ...] = ()
    """What its value may be; empty if that is not known."""

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every form it can have when written out."""
        twin = (f"--no-{self.name[2:]}",) if self.takes is Takes.SWITCH else ()
        return (self.name, *twin, *self.also)


@dataclass(frozen=True, slots=True)
class Typed:
    """A flag with its values, or a plain word, as somebody typed it."""

    words: tuple[str, ...]
    """Exactly the words of the command line; all items' words together are the command line."""
    spelling: str = ""
    """The flag as typed, without `=` and value; empty for a plain word, which is then `words[0]`."""
    flag: Flag | None = None
    """None for a plain word, an unknown flag and an ambiguous abbreviation."""
    values: tuple[str, ...] = ()
    off: bool = False
    """The flag's `--no-` twin was typed."""
    candidates: tuple[str, ...] = ()
    """What an ambiguous abbreviation may mean."""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    vllm: str
    nothing: list[str]
    switch: list[str]
    one: list[str]
    optional: list[str]
    many: list[str]
    also: dict[str, str]
    choices: dict[str, list[str]]


class Flags:
    """A set of flags that a command line is read with."""

    def __init__(self, flags: Iterable[Flag], *, further: Iterable[Flag] = ()) -> None:
        """`further` flags are looked up last, so that they make no abbreviation of the others ambiguous."""
        self._first = {spelling: flag for flag in flags for spelling in flag.spellings}
        self._further = {spelling: flag for flag in further for spelling in flag.spellings}
        self._all = self._further | self._first

    @property
    def spellings(self) -> tuple[str, ...]:
        return tuple(self._all)

    def __getitem__(self, name: str) -> Flag:
        return self._all[name]

    def read(self, words: Sequence[str]) -> tuple[Typed, ...]:
        """Group `words` into flags with their values and plain words.

        An unknown flag, of another vLLM or a plugin, is given the words up to the next flag. `--` is an item of its
        own, and the words behind it are read like the others.
        """
        items = []
        at = 0
        while at < len(words):
            item = self._item(words, at)
            items.append(item)
            at += len(item.words)
        return tuple(items)

    def _item(self, words: Sequence[str], at: int) -> Typed:
        word = words[at]
        if not is_flag(word):
            return Typed((word,))
        if word == "--":
            return Typed((word,), word)
        spelling, joined, candidates = self._find(word)
        flag = self._all[candidates[0]] if len(candidates) == 1 else None
        takes = Takes.ONE if "." in spelling else flag.takes if flag else Takes.MANY
        following = _following(words, at + 1, takes) if joined is None else ()
        return Typed(
            words=(word, *following),
            spelling=spelling,
            flag=flag,
            values=following if joined is None else (joined,),
            off=flag is not None and candidates[0].startswith("--no-") and flag.name != candidates[0],
            candidates=tuple(candidates) if flag is None else (),
        )

    def _find(self, word: str) -> tuple[str, str | None, list[str]]:
        """The flag as typed, the value joined to it, and the written-out spellings that it may stand for."""
        spelling, equals, value = word.partition("=")
        joined = value if equals else None
        name = spelling.partition(".")[0]
        if name.startswith("--"):
            return spelling, joined, self._completions(name.replace("_", "-"))
        if name not in self._all and name[:2] in self._all:
            return name[:2], word[2:].removeprefix("="), [name[:2]]
        return spelling, joined, self._completions(name)

    def _completions(self, name: str) -> list[str]:
        for spellings in (self._first, self._further):
            if name in spellings:
                return [name]
        if name == "--":
            return []
        same_kind = [spelling for spelling in self._first if spelling.startswith(name)]
        return same_kind or [spelling for spelling in self._further if spelling.startswith(name)]


def is_flag(word: str) -> bool:
    """Whether a word begins a flag rather than being a value: `-tp`, `--x=...`, but not `-1`, `-` or `-a b`."""
    return len(word) > 1 and word[0] == "-" and not re.match(r"-\.?\d|[^=]*\s", word)


def _following(words: Sequence[str], start: int, takes: Takes) -> tuple[str, ...]:
    if takes in (Takes.NOTHING, Takes.SWITCH):
        return ()
    end = start
    while end < len(words) and not is_flag(words[end]) and (takes is Takes.MANY or end == start):
        end += 1
    return tuple(words[start:end])


@functools.cache
def _file() -> _File:
    text = resources.files("dp_vllm.engine").joinpath("flags.json").read_bytes()
    return msgspec.json.decode(text, type=_File)


def vllm_flags() -> tuple[Flag, ...]:
    """Every flag of `vllm serve`."""
    file = _file()
    kinds = {
        Takes.NOTHING: file.nothing,
        Takes.SWITCH: file.switch,
        Takes.ONE: file.one,
        Takes.OPTIONAL: file.optional,
        Takes.MANY: file.many,
    }
    also: dict[str, tuple[str, ...]] = {}
    for other, name in file.also.items():
        also[name] = (*also.get(name, ()), other)
    return tuple(
        Flag(name, takes, also.get(name, ()), tuple(file.choices.get(name, ())))
        for takes, names in kinds.items()
        for name in names
    )


def flags_version() -> str:
    """The vLLM whose flags these are."""
    return _file().vllm
