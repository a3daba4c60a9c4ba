"""What an engine will fetch from the hub, read from its model and its flags, and where it will keep it.

Pure: it asks no hub, and looks at no file.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from dp_vllm.engine.command import known_flags
from dp_vllm.engine.flags import Typed

_NAME: Final = re.compile(r"[-.\w]+(/[-.\w]+)?", re.ASCII)
_HIDING: Final = ("--config", "--lora-modules", "--default-mm-loras")
"""Flags whose values may name further repositories, or say so elsewhere."""
_ELSEWHERE: Final = "--download-dir"


@dataclass(frozen=True, slots=True)
class Repository:
    """Something at the hub."""

    name: str
    revision: str = ""
    """The hub's default if empty."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What an engine fetches."""

    repositories: tuple[Repository, ...]
    """The model first. None if the model is not at the hub, or is to be kept at a place of its own."""
    whole: bool
    """Whether that is all; else the engine may ask for more."""


def fetched(model: str, words: Sequence[str]) -> Fetched:
    """What the engine of a model fetches with these flags."""
    given = {item.flag.name: item for item in known_flags().read(words) if item.flag is not None}
    if not _NAME.fullmatch(model) or _ELSEWHERE in given:
        return Fetched((), whole=False)
    others = [
        Repository(_value(given, "--tokenizer"), _value(given, "--tokenizer-revision")),
        Repository(_value(given, "--hf-config-path"), _value(given, "--revision")),
        _draft(given.get("--speculative-config")),
    ]
    named = [one for one in others if one.name and not one.name.startswith("/")]
    clear = [one for one in named if "/" in one.name and _NAME.fullmatch(one.name)]
    return Fetched(
        (Repository(model, _value(given, "--revision")), *clear),
        whole=clear == named and not any(flag in given for flag in _HIDING),
    )


def home(environ: Mapping[str, str]) -> Path:
    """Where the hub's things are kept."""
    if given := environ.get("HF_HOME"):
        return Path(given).expanduser()
    cache = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME") or "/") / ".cache")
    return Path(cache) / "huggingface"


def cache(environ: Mapping[str, str]) -> Path:
    """Where the hub's models are kept, as huggingface_hub has it."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if given := environ.get(variable):
            return Path(given).expanduser()
    return home(environ) / "hub"


def folder(model: str, cache: Path) -> Path:
    """A model's place in the cache."""
    return cache / f"models--{model.replace('/', '--')}"


def _value(given: dict[str, Typed], flag: str) -> str:
    values = given[flag].values if flag in given else ()
    return values[0] if values else ""


def _draft(flag: Typed | None) -> Repository:
    """The model that proposes tokens, if another one does."""
    if flag is None:
        return Repository("")
    try:
        said: Any = msgspec.json.decode(flag.values[0])
        return Repository(str(said.get("model") or ""), str(said.get("revision") or ""))
    except (msgspec.DecodeError, AttributeError, IndexError):
        return Repository("?")  # in another form: there may be one
