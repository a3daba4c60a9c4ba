"""API keys: which texts are keys, and how a file or a Secret holds several of them.

A line of a key file is `KEY`, `NAME: KEY` or `NAME (admin): KEY`. No key has a blank, so what is before a colon and a
blank is never a part of a key. Messages name the line and never quote it.
"""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dp_vllm import names
from dp_vllm.errors import BadSettings

MAX_FILE_BYTES: Final = 1 << 20
"""More is no file of keys; and it is read while requests wait."""

RULE: Final = "a key has 1 to 4,096 visible ASCII characters and no blanks"

_KEY: Final = re.compile(r"[\x21-\x7e]{1,4096}")
_LABEL: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._@+-]{0,62})(?: ?(\(admin\)))?:")
_BOM: Final = b"\xef\xbb\xbf"
_SHOWN_PROBLEMS: Final = 3


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key of a file."""

    key: str = field(repr=False)
    name: str
    """For the log; `line3` if the file gives none."""
    admin: bool = False
    """It may change the whole deployment, where only some keys may."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What a key file holds."""

    keys: tuple[ApiKey, ...]
    """The keys of the lines that have no problem."""
    problems: tuple[str, ...]
    """`line 3: ...`, a sentence for each line that is not as it should be."""

    @property
    def problem(self) -> str:
        """The first problems in one sentence; empty if there is none."""
        more = len(self.problems) - _SHOWN_PROBLEMS
        return "; ".join(self.problems[:_SHOWN_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")


def checked(key: str) -> str:
    """The key itself. Raises ValueError if an HTTP header cannot carry it as it is."""
    if not _KEY.fullmatch(key):
        raise ValueError(RULE)
    return key


def of_environment(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The endpoint's keys in the environment. Raises BadSettings for a variable that is set and holds no key."""
    for variable in (names.API_KEY_VARIABLE, "VLLM_API_KEY"):
        if variable in environ:
            return of_variable(environ, variable)
    return ()


def of_variable(environ: Mapping[str, str], variable: str) -> tuple[str, ...]:
    """The keys in one variable, separated by white space; none if it is not set. Raises BadSettings."""
    if variable not in environ:
        return ()
    keys = environ[variable].split()
    if not keys or not all(map(_KEY.fullmatch, keys)):
        raise BadSettings(f"{variable}: {RULE}; unset the variable for none")
    return tuple(keys)


def written(name: str, key: str, *, admin: bool = False) -> str:
    """The line of a key file for this key, with its end."""
    return f"{name} (admin): {key}\n" if admin else f"{name}: {key}\n"


def load(path: Path) -> bytes:
    """The bytes of a key file. Raises OSError if it is not a regular file, cannot be read or is far too long."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is not a regular file")
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise OSError(f"it has more than {MAX_FILE_BYTES >> 20} MiB")
    return data


def read(data: bytes) -> KeyFile:
    """The keys of a file. Empty lines and lines that begin with `#` are left out."""
    keys: dict[str, ApiKey] = {}
    used: set[str] = set()
    problems: list[str] = []
    for number, raw in enumerate(data.removeprefix(_BOM).split(b"\n"), 1):
        line = raw.removesuffix(b"\r").strip(b" \t")
        if not line or line.startswith(b"#"):
            continue
        try:
            entry = _entry(line, number)
            if entry.key in keys:
                raise ValueError("another line has this key")
            if entry.name in used:
                raise ValueError(f"another key has the name {entry.name}")
        except ValueError as error:
            problems.append(f"line {number}: {error}")
        else:
            keys[entry.key] = entry
            used.add(entry.name)
    return KeyFile(tuple(keys.values()), tuple(problems))


def only_key(data: bytes) -> str:
    """The key of a file that holds one key and nothing else. Raises ValueError."""
    return checked(data.removeprefix(_BOM).strip(b" \t\r\n").decode("latin-1"))


def _entry(line: bytes, number: int) -> ApiKey:
    *label, key = line.decode("latin-1").replace("\t", " ").split(" ")
    if not label:
        return ApiKey(_unnamed(key), f"line{number}")
    match = _LABEL.fullmatch(" ".join(filter(None, label)))
    if match is None:
        raise ValueError("a line is `KEY`, `NAME: KEY` or `NAME (admin): KEY`; a name has at most 63 of A-Za-z0-9._@+-")
    name, mark = match.groups()
    if name.lower() == "admin":
        raise ValueError("`admin` is a mark and no name: write `NAME (admin): KEY`")
    return ApiKey(checked(key), name, admin=mark is not None)


def _unnamed(key: str) -> str:
    checked(key)
    if key.endswith(":"):
        raise ValueError("a name without a key; a key that ends with a colon needs a name before it")
    if "=" in key.rstrip("="):
        raise ValueError(
            "`=` is a part of the key and ends no name: write `NAME: KEY`, also for a key that has `=` before its end"
        )
    return key
