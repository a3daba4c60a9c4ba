"""The endpoint's API keys: several, from the command line and from files that are read again when they change.

Keys are compared as SHA-256 digests of bytes, so the time of a comparison tells nothing of the key and no key can be
malformed.
"""

import hashlib
import logging
import os
from collections.abc import Iterable
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


class _File:
    """The keys of one file, as it is now. All of them are administrators' if `admin`."""

    def __init__(self, path: Path, *, admin: bool) -> None:
        self.flag = "--admin-api-key-file" if admin else "--api-key-file"
        self.holders: dict[bytes, Holder] = {}
        self.problem = ""
        """Why it has no holders."""
        self._path = path
        self._admin = admin
        self._stamp: _Stamp | None = None
        self._was_good = False
        self._was_read = False

    def refresh(self) -> bool:
        """Read it again if it changed; whether it did.

        A line that is wrong opens nothing, and until the file has been right once no other line does.
        """
        try:
            stamp = _stamp(self._path)
            if stamp == self._stamp:
                return False
            found = api_keys.read(api_keys.load(self._path))
        except OSError as error:
            self._stamp = None
            return self._take((), f"the key file {self._path} cannot be read: {error.strerror or error}")
        self._stamp = stamp
        self._was_good = self._was_good or (bool(found.keys) and not found.problems)
        if found.problems and self._was_good:
            log.error("the key file %s: %s; these lines open nothing", self._path, found.problem)
        keys = found.keys if self._was_good else ()
        return self._take(keys, "" if keys else f"the key file {self._path}: {found.problem or 'it holds no key'}")

    def _take(self, keys: Iterable[api_keys.ApiKey], problem: str) -> bool:
        same = problem != "" and problem == self.problem
        if problem and not same and self._was_read:  # the first one is reported by the server
            log.error("%s", problem)
        self._was_read = True
        self.problem = problem
        self.holders = {_digest(each.key): Holder(each.name, each.admin or self._admin) for each in keys}
        return not same


class Keys:
    """The keys that open the endpoint, each with a name for the log, and those that may change the deployment."""

    def __init__(
        self,
        keys: Iterable[str] = (),
        file: Path | None = None,
        admin_keys: Iterable[str] = (),
        admin_file: Path | None = None,
    ) -> None:
        self._given = {_digest(key): Holder(f"key{number}", False) for number, key in enumerate(keys, 1)}
        for number, key in enumerate(admin_keys, 1):
            self._given[_digest(key)] = Holder(f"admin{number}", True)
        self._file = None if file is None else _File(file, admin=False)
        self._admin_file = None if admin_file is None else _File(admin_file, admin=True)
        self._files = [each for each in (self._file, self._admin_file) if each is not None]
        self.required = bool(self._given or self._files)
        """Whether requests need a key at all."""
        self.restricted = admin_file is not None
        """Only some keys may change the whole deployment. It stays so when the last of those is gone."""
        self._holders = self._given
        self._known: dict[bytes, Holder] = {}
        """Keys that were found before. Python looks bytes up by a hash that is secret to the process."""
        self.problem = ""
        """Why every request is refused."""
        self.refresh()
        self._merge()

    def holder_of(self, key: bytes | None) -> Holder | None:
        """Who has this key; None if it is not one of the endpoint's."""
        if key is None:
            return None
        holder = self._known.get(key)
        if holder is None:
            holder = self._holders.get(hashlib.sha256(key).digest())
            if holder is not None:
                self._known[key] = holder
        return holder

    def refresh(self) -> None:
        """Read the files again if they changed. A file without keys closes the endpoint; it never opens it."""
        changed = [each.refresh() for each in self._files]
        if any(changed):
            self._merge()

    def _merge(self) -> None:
        found = [*self._given.items(), *(item for each in self._files for item in each.holders.items())]
        self._holders = dict(sorted(found, key=lambda item: item[1].admin))  # the last counts
        self._known.clear()
        self.restricted = self.restricted or any(holder.admin for holder in self._holders.values())
        self.problem = self._file.problem if self._file is not None and not self._given else ""
        if self.required and not self._holders:
            self.problem = "; ".join(each.problem for each in self._files)

    def demand_usable(self) -> None:
        """Raise UserError if a file cannot be used from the start."""
        for problem in self.problems():
            raise UserError(problem)

    def problems(self) -> list[str]:
        """Why files hold no keys, each with its flag."""
        return [f"{each.flag}: {each.problem}" for each in self._files if each.problem]


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


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
