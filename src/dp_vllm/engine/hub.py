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
_SAID_BY_USER: Final = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_MODEL_REDIRECT_PATH")
_ASK_LATER: Final = ("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_USE_MODELSCOPE")
_ADAPTERS: Final = "--enable-lora"
_OTHER_CONFIG: Final = "--hf-config-path"
"""Of another repository, which vLLM wants in the model's revision."""
_ON: Final = ("1", "on", "true", "yes")


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


def pinnable(model: str, words: Sequence[str], environ: Mapping[str, str]) -> tuple[Repository, ...]:
    """All that the engine ever fetches, the model first; empty if it may ask for more, or its user sees to that.

    Only where that is known can an engine be kept from the hub. `environ` is the engine's.
    """
    given = {item.flag.name for item in known_flags().read(words) if item.flag is not None}
    asks_later = any(environ.get(name, "").lower() in _ON for name in _ASK_LATER)
    if asks_later or any(name in environ for name in _SAID_BY_USER) or given & {_ADAPTERS, _OTHER_CONFIG}:
        return ()
    found = fetched(model, words)
    return found.repositories if found.whole else ()


def pinned(commit: str, *, offline: bool) -> tuple[tuple[str, ...], dict[str, str]]:
    """Words and variables with which an engine serves this commit; `offline`: out of the cache alone."""
    return ("--revision", commit), {"HF_HUB_OFFLINE": "1"} if offline else {}


def kept(repository: Repository, cache: Path) -> Path:
    """The file of the cache that holds the commit which a revision was when it was last downloaded."""
    return folder(repository.name, cache) / "refs" / (repository.revision or "main")


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
