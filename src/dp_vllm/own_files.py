"""Opens and replaces the files that this program writes, so that no other user can redirect or read them.

In a directory that others may write to, like /tmp, another user can put a link in the place of a file, and what is
written would go where it points. So a link is never followed, and a file must belong to this user or to root, and have
one name. Files that exist keep their mode; new ones are for this user alone unless `mode` says more.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

from dp_vllm.errors import UserError

PRIVATE: Final = 0o600

_FLAGS: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""Not to wait for a reader where somebody made a pipe of that name."""


def appended(path: Path, mode: int = PRIVATE) -> int:
    """A descriptor to read and append to this file, made if it is not there. Raises OSError with a sentence."""
    return _opened(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, mode)


def read_write(path: Path) -> int:
    """A descriptor to read and change a file that is there. Raises OSError with a sentence, or FileNotFoundError."""
    return _opened(path, os.O_RDWR, PRIVATE)


def opened(path: Path) -> BinaryIO:
    """A file of this user to read. Raises OSError with a sentence, or FileNotFoundError."""
    return open(_opened(path, os.O_RDONLY, PRIVATE), "rb")


def read(path: Path) -> bytes:
    """What a file of this user holds. Raises OSError with a sentence, or FileNotFoundError."""
    with opened(path) as file:
        return file.read()


def created(path: Path, mode: int = PRIVATE) -> int:
    """A descriptor to write a new file; what has its name goes. Raises OSError."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        with contextlib.suppress(FileExistsError):
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, mode)


def replace(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Put a new file in the place of this one at once: readers see the old one or the new one. Raises OSError."""
    new = path.with_name(f".{path.name}.new")
    with open(created(new, mode), "wb") as file:
        file.write(data)
    new.replace(path)


def followed(path: Path) -> Path:
    """Where this user's own links lead from a path that the user named. Raises OSError for a link of another user."""
    for link, owner in _links(path):
        if _is_foreign(owner):
            raise OSError(f"{link} is a symbolic link of another user (uid {owner}), which is not followed")
    return path.resolve()


def make_directory(path: Path, *, flag: str = "") -> None:
    """Have a directory that others cannot exchange files in; what is made has mode 0700. `flag` is what names it.

    Raises UserError if it, or a link on the way to it, belongs to another user.
    """
    begin = f"{flag}: " if flag else ""
    try:
        _make_private(path)
        status = path.stat()
    except OSError as error:
        raise UserError(f"{begin}{path} cannot be used as a directory: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise UserError(f"{begin}{path} is no directory")
    for one, owner in ((path, status.st_uid), *_links(path)):
        if _is_foreign(owner):
            raise UserError(
                f"{begin}{one} belongs to another user (uid {owner}), who could redirect what is written there; "
                "choose a directory of your own"
            )


def _is_foreign(owner: int) -> bool:
    """Whether that is neither this user nor root, who can do everything anyway."""
    return owner not in (os.geteuid(), 0)


def _make_private(path: Path) -> None:
    """As `mkdir -p`, but with mode 0700 for all that is made."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_private(path.parent)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)


def _links(path: Path) -> list[tuple[Path, int]]:
    """The symbolic links on the way to this path, with their owners."""
    found = []
    at = path.absolute()
    for one in (at, *at.parents):
        with contextlib.suppress(FileNotFoundError):
            status = one.lstat()
            if stat.S_ISLNK(status.st_mode):
                found.append((one, status.st_uid))
                found += _links(one.parent / os.readlink(one))
    return found


def _opened(path: Path, flags: int, mode: int) -> int:
    try:
        fd = os.open(path, flags | _FLAGS, mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(f"{path} is a symbolic link, which is not followed; remove it") from None
        raise
    try:
        status = os.fstat(fd)
        if problem := _problem(path, status):
            raise OSError(problem)
        os.set_blocking(fd, True)
    except OSError:
        os.close(fd)
        raise
    return fd


def _problem(path: Path, status: os.stat_result) -> str:
    if stat.S_ISDIR(status.st_mode):
        return f"{path} is a directory"
    if stat.S_ISCHR(status.st_mode):
        return ""  # /dev/null
    if _is_foreign(status.st_uid):
        return f"{path} belongs to another user (uid {status.st_uid}); remove it, or choose another directory"
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        return f"{path} is another name of a file (it has {status.st_nlink} hard links); remove it"
    return ""
