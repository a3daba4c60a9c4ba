"""The endpoint's API keys: several, from the command line and a file that is read again when it changes.

Keys are compared as SHA-256 digests of bytes, so the time of a comparison tells nothing of the key and no key can be
malformed.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from dp_vllm.errors import BadSettings, UserError


class Keys:
    """Who may use the endpoint. A key has a name for the log: `name=key` in the file, else a number."""

    def __init__(self, keys: Iterable[str], file: Path | None) -> None:
        self._given = {_digest(key.encode()): f"key{number}" for number, key in enumerate(keys, 1)}
        self._file = file
        self._stamp: tuple[int, int, int] | None = None
        self._from_file: dict[bytes, str] = {}
        self._known: dict[bytes, str] = {}
        """Keys that were found before. Python looks bytes up by a hash that is secret to the process."""
        self.problem = ""
        """Why every request is refused, if the file that should hold keys holds none."""
        if file is not None:
            self.refresh()

    @property
    def required(self) -> bool:
        """Whether requests need a key at all."""
        return bool(self._given) or self._file is not None

    def name_of(self, key: bytes | None) -> str | None:
        """The name of a key, None if it is not one of the endpoint's."""
        if key is None:
            return None
        name = self._known.get(key)
        if name is None:
            digest = _digest(key)
            name = self._given.get(digest) or self._from_file.get(digest)
            if name is not None:
                self._known[key] = name
        return name

    def refresh(self) -> None:
        """Read the file again if it changed. A file without keys closes the endpoint; it never opens it."""
        if self._file is None:
            return
        try:
            status = os.stat(self._file)
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp == self._stamp:
                return
            lines = self._file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            self._from_file, self._stamp = {}, None
            self._known.clear()
            self.problem = f"the key file {self._file} cannot be read: {error}"
            return
        self._stamp = stamp
        self._known.clear()
        self._from_file = dict(_entry(line, number) for number, line in enumerate(lines, 1) if line.strip())
        self.problem = "" if self._from_file or self._given else f"the key file {self._file} holds no key"

    def demand_usable(self) -> None:
        """Raise UserError if the endpoint would refuse everybody from the start."""
        if self.problem:
            raise UserError(f"--api-key-file: {self.problem}")


def replica_key(key: str | None, file: Path | None) -> str | None:
    """The key that the engines want, as given or from a file that other users cannot read as they can a command line.

    Raises BadSettings if the file does not hold one key.
    """
    if file is None:
        return key
    if key is not None:
        raise BadSettings("--replica-api-key and --replica-api-key-file: give one of them")
    try:
        found = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"--replica-api-key-file: {file} cannot be read: {error}") from error
    if not found.isascii() or not found.isprintable() or not found or " " in found:
        raise BadSettings(f"--replica-api-key-file: {file} does not hold one key")
    return found


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _entry(line: str, number: int) -> tuple[bytes, str]:
    name, separator, key = line.strip().partition("=")
    if separator and name.isidentifier() and key:
        return _digest(key.encode()), name
    return _digest(line.strip().encode()), f"key{number}"
