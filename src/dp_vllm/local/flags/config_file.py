"""vLLM's `--config` file, taken apart: the words that it stands for, and a copy without the endpoint's own flags.

A key is a flag without its dashes, in any spelling; what it stands for is what vLLM 0.32 makes of it.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from dp_vllm.engine.flags import Flags, Takes, Typed
from dp_vllm.errors import BadSettings


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of the file, and the flag that it stands for."""

    key: str
    value: object
    item: Typed
    """The flag with its values, as if it had been typed; without words."""

    @property
    def says_nothing(self) -> bool:
        """`null`, and `false` for a flag that cannot be turned off, leave the flag out."""
        return self.value is None or self.value == [] or (self.value is False and not self.item.off)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What a `--config` file says."""

    path: Path
    entries: tuple[Entry, ...]


def load(path: Path, flags: Flags) -> ConfigFile:
    """Read the file. Raises BadSettings if it is no YAML file of flags."""
    if path.suffix not in (".yaml", ".yml"):
        raise BadSettings(f"--config: {str(path)!r} is not a .yaml or .yml file, and vLLM takes no other")
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise BadSettings(f"--config: {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadSettings(f"--config: {path} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        content = {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise BadSettings(f"--config: {path} must map flags to values, like `max-model-len: 8192`")
    if "config" in content:
        raise BadSettings(f"config in {path}: a --config file cannot name another one")
    return ConfigFile(path, tuple(Entry(key, value, _item(key, value, flags)) for key, value in content.items()))


def _item(key: str, value: object, flags: Flags) -> Typed:
    (item,) = flags.read((f"--{key}",))
    switch = item.flag is not None and item.flag.takes is Takes.SWITCH
    return replace(item, words=(), values=_values(value), off=item.off or (value is False and switch))


def _values(value: object) -> tuple[str, ...]:
    match value:
        case bool() | None:
            return ()
        case list():
            return tuple(map(str, value))
        case dict():
            return (json.dumps(value),)
        case _:
            return (str(value),)


def without(file: ConfigFile, ours: frozenset[str]) -> str | None:
    """The file's text without the flags named in `ours`, for the engines; None if it holds none of them."""
    kept = {e.key: e.value for e in file.entries if e.item.flag is None or e.item.flag.name not in ours}
    if len(kept) == len(file.entries):
        return None
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)
