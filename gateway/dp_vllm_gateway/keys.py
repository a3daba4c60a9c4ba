"""The endpoint's API keys: several, from the command line and a file that is read again when it changes.

Keys are compared as SHA-256 digests of bytes, so the time of a comparison tells nothing of the key and no key can be
malformed.
"""

import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from dp_vllm import api_keys
from dp_vllm.errors import BadSettings, UserError

log = logging.getLogger(__name__)

_Stamp = tuple[int, int, int, int, int]


class Holder(NamedTuple):
    """Who has a key."""

    name: str
    """For the log."""
    admin: bool
    """May change the whole deployment."""


class Keys:
    """The keys that open the endpoint, each with a name for the log, and those that may change the deployment."""

    def __init__(self, keys: Iterable[str], file: Path | None, admin_keys: Iterable[str] = ()) -> None:
        self._given = {_digest(key.encode()): Holder(f"key{number}", False) for number, key in enumerate(keys, 1)}
        for number, key in enumerate(admin_keys, 1):
            self._given[_digest(key.encode())] = Holder(f"admin{number}", True)
        self.restricted = any(holder.admin for holder in self._given.values())
        """Only some keys may change the whole deployment. It stays so when the file loses its last admin key."""
        self._file = file
        self._stamp: _Stamp | None = None
        self._was_good = False
        self._from_file: dict[bytes, Holder] = {}
        self._known: dict[bytes, Holder] = {}
        """Keys that were found before. Python looks bytes up by a hash that is secret to the process."""
        self.problem = ""
        """Why every request is refused, if the file that should hold keys holds none."""
        if file is not None:
            self.refresh()

    @property
    def required(self) -> bool:
        """Whether requests need a key at all."""
        return bool(self._given) or self._file is not None

    def holder_of(self, key: bytes | None) -> Holder | None:
        """Who has this key; None if it is not one of the endpoint's."""
        if key is None:
            return None
        holder = self._known.get(key)
        if holder is None:
            digest = _digest(key)
            holder = self._given.get(digest) or self._from_file.get(digest)
            if holder is not None:
                self._known[key] = holder
        return holder

    def refresh(self) -> None:
        """Read the file again if it changed. A file without keys closes the endpoint; it never opens it.

        A line that is wrong opens nothing. It also closes the endpoint until the file has been right once.
        """
        if self._file is None:
            return
        try:
            stamp = _stamp(self._file)
            if stamp == self._stamp:
                return
            data = api_keys.load(self._file)
        except OSError as error:
            self._take((), f"the key file {self._file} cannot be read: {error.strerror or error}")
            self._stamp = None
            return
        self._stamp = stamp
        found = api_keys.read(data)
        wrong = f"the key file {self._file}: {found.problem}" if found.problems else ""
        if wrong and not self._was_good:
            self._take((), wrong)
            return
        self._was_good = self._was_good or bool(found.keys)
        if wrong:
            log.error("%s; these lines open nothing", wrong)
        usable = found.keys or self._given
        self._take(found.keys, "" if usable else wrong or f"the key file {self._file} holds no key")

    def _take(self, keys: Sequence[api_keys.ApiKey], problem: str) -> None:
        if problem and problem != self.problem:
            log.error("every request is refused: %s", problem)
        self.problem = problem
        self._known.clear()
        self._from_file = {_digest(each.key.encode()): Holder(each.name, each.admin) for each in keys}
        self.restricted = self.restricted or any(each.admin for each in keys)

    def demand_usable(self) -> None:
        """Raise UserError if the endpoint would refuse every request from the start."""
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
        return api_keys.only_key(api_keys.load(file))
    except OSError as error:
        raise BadSettings(f"--replica-api-key-file: {file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise BadSettings(f"--replica-api-key-file: {file} does not hold one key: {error}") from error


def _stamp(file: Path) -> _Stamp:
    """What changes when another file is there, or other bytes are in it."""
    status = os.stat(file)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
