"""The file of answers: the one owner of it, and the batch's only memory."""

import contextlib
import fcntl
import os
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from dp_vllm import own_files
from dp_vllm.batch.requests import key
from dp_vllm.errors import UserError

_PIECE: Final = 65_536


class Response(msgspec.Struct, frozen=True):
    """What the endpoint answered."""

    status_code: int
    request_id: str
    body: Any


class Error(msgspec.Struct, frozen=True):
    """Why there was no answer."""

    code: str
    message: str


class Answer(msgspec.Struct, frozen=True):
    """One line, as OpenAI writes it."""

    id: str
    custom_id: str
    response: Response | None
    error: Error | None

    @property
    def failed(self) -> bool:
        return self.response is None or self.response.status_code >= 300


def answer(custom_id: str, response: Response | None = None, error: Error | None = None) -> Answer:
    return Answer(f"batch_req_{uuid.uuid4().hex}", custom_id, response, error)


class _Known(msgspec.Struct, frozen=True):
    """What is needed of a line that stands there already."""

    custom_id: str
    response: "_Status | None" = None

    @property
    def failed(self) -> bool:
        return self.response is None or self.response.status_code >= 300


class _Status(msgspec.Struct, frozen=True):
    status_code: int = 200


@dataclass(slots=True)
class Answers:
    """An open file of answers, which nobody else writes to."""

    path: Path
    done: set[int]
    """The keys of the ids that stand in it."""
    failed: int
    """How many of those failed."""
    repaired: bool
    """Half a line was cut off: the one that wrote it was killed."""
    _fd: int

    def add(self, one: Answer) -> None:
        """Append a line. Raises UserError if it cannot be written."""
        line = memoryview(msgspec.json.encode(one) + b"\n")
        try:
            while line:
                line = line[os.write(self._fd, line) :]
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written to: {error.strerror}; the same command goes on where it stands"
            ) from error
        self.failed += one.failed
        self.done.add(key(one.custom_id))


@contextlib.contextmanager
def opened(path: Path, *, retry_failed: bool) -> Iterator[Answers]:
    """The file, made if it is not there; half a line at its end is cut off, with `retry_failed` lines of failures too.

    Raises UserError if it is no file of answers, or if another batch writes to it.
    """
    path = _followed(path)
    fd = _locked(path)
    try:
        repaired = _repair(path, fd)
        known = list(_known(path)) if retry_failed else []
        if any(failed for _, failed in known):
            fd = _without_failures(path, fd)
        done, failures = set[int](), 0
        for one, failed in _known(path):
            done.add(one)
            failures += failed
        yield Answers(path, done, failures, repaired, fd)
        os.fsync(fd)
    finally:
        os.close(fd)


def _followed(path: Path) -> Path:
    try:
        return own_files.followed(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written to: {error}") from error


def _locked(path: Path) -> int:
    try:
        fd = own_files.appended(path, mode=0o666)
    except OSError as error:
        raise UserError(f"{path} cannot be written to: {error.strerror or error}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if isinstance(error, BlockingIOError):
            raise UserError(f"another batch writes to {path}; wait for it, or name another file") from None
        raise UserError(f"{path} cannot be locked: {error.strerror}") from error
    return fd


def _repair(path: Path, fd: int) -> bool:
    """Cut off what follows the last line's end, or end the line if it is a whole one."""
    size = os.fstat(fd).st_size
    end, rest = size, b""
    while end > 0 and not (rest := os.pread(fd, min(end, _PIECE), max(0, end - _PIECE))).endswith(b"\n"):
        end = max(0, end - _PIECE) + rest.rfind(b"\n") + 1
    if end == size:
        return False
    rest = os.pread(fd, size - end, end)
    with contextlib.suppress(msgspec.DecodeError):
        msgspec.json.decode(rest, type=_Known)
        os.write(fd, b"\n")
        return False
    if end == 0 and not rest.startswith(b"{"):
        raise UserError(f"{path} is no file of answers; name another one")
    os.ftruncate(fd, end)
    return True


def _known(path: Path) -> Iterator[tuple[int, bool]]:
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                one = msgspec.json.decode(text, type=_Known)
            except msgspec.DecodeError as error:
                raise UserError(f"{path}: line {number} is no answer of a batch: {error}; name another file") from error
            yield key(one.custom_id), one.failed


def _without_failures(path: Path, fd: int) -> int:
    """Put a copy without lines of failures in the file's place at once, and return its descriptor."""
    new = path.with_name(f".{path.name}.new")
    made = own_files.created(new, stat.S_IMODE(os.fstat(fd).st_mode))
    with path.open("rb") as old, open(made, "wb") as file:
        file.writelines(text for text in old if not msgspec.json.decode(text, type=_Known).failed)
        os.fsync(file.fileno())
    replacement = _locked(new)
    os.replace(new, path)
    os.close(fd)
    return replacement
