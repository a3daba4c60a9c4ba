"""What another user puts in the place of a file of ours redirects nothing and reads nothing."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from dp_vllm import own_files
from dp_vllm.errors import UserError

ANOTHER_USER = 4242

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write(path: Path) -> None:
    with open(own_files.appended(path), "a") as file:
        file.write("more\n")


def replace(path: Path) -> None:
    own_files.replace(path, b"more\n")


def read(path: Path) -> None:
    own_files.read(path)


def test_new_files_and_directories_are_for_this_user_alone(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    own_files.make_directory(directory)
    write(directory / "log")
    replace(directory / "state")
    own_files.replace(directory / "shared", b"", mode=0o644)
    assert [mode(path) for path in (directory.parent, directory)] == [0o700, 0o700]
    assert {path.name: mode(path) for path in directory.iterdir()} == {"log": 0o600, "state": 0o600, "shared": 0o644}
    (directory / "log").chmod(0o640)
    write(directory / "log")
    assert mode(directory / "log") == 0o640, "who opened it to others meant to"
    assert own_files.read(directory / "log") == b"more\nmore\n"


@pytest.mark.parametrize("act", [write, read])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_in_the_place_of_a_file_is_not_followed(
    tmp_path: Path, act: Callable[[Path], None], dangling: bool
) -> None:
    precious, planted = tmp_path / "precious", tmp_path / "log"
    if not dangling:
        precious.write_text("as it was")
    planted.symlink_to(precious)
    with pytest.raises(OSError, match=f"{planted} is a symbolic link, which is not followed"):
        act(planted)
    assert not precious.exists() if dangling else precious.read_text() == "as it was"


def test_what_is_replaced_replaces_links_and_writes_through_none(tmp_path: Path) -> None:
    precious, target = tmp_path / "precious", tmp_path / "state"
    precious.write_text("as it was")
    target.symlink_to(precious)
    (tmp_path / ".state.new").symlink_to(precious)
    replace(target)
    assert precious.read_text() == "as it was"
    assert (target.read_text(), target.is_symlink(), mode(target)) == ("more\n", False, 0o600)


def test_another_name_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("as it was")
    (tmp_path / "log").hardlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="another name of a file"):
        write(tmp_path / "log")


def test_a_pipe_that_nobody_reads_and_a_directory_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name in ("pipe", "directory"):
        with pytest.raises(OSError):  # noqa: PT011 - the kernel's words
            own_files.created(tmp_path / "no" / name)
    with pytest.raises(OSError, match="directory"):
        write(tmp_path / "directory")


@needs_root
@pytest.mark.parametrize("act", [write, read])
def test_a_file_of_another_user_is_refused(tmp_path: Path, act: Callable[[Path], None]) -> None:
    for name, make in (("log", Path.touch), ("pipe", os.mkfifo)):
        make(tmp_path / name)
        os.chown(tmp_path / name, ANOTHER_USER, -1)
        with pytest.raises(OSError, match=f"belongs to another user .uid {ANOTHER_USER}"):
            act(tmp_path / name)


@needs_root
def test_a_directory_of_another_user_or_behind_a_link_of_one_is_refused(tmp_path: Path) -> None:
    mine, theirs, link = tmp_path / "mine", tmp_path / "theirs", tmp_path / "link"
    mine.mkdir()
    theirs.mkdir()
    link.symlink_to(mine)
    own_files.make_directory(link / "made")
    assert own_files.followed(link / "made") == mine / "made"
    for path in (theirs, link):
        os.chown(path, ANOTHER_USER, -1, follow_symlinks=False)
    for path, named in ((theirs, theirs), (link, link), (link / "made", link)):
        with pytest.raises(UserError, match=f"{named} belongs to another user .uid {ANOTHER_USER}"):
            own_files.make_directory(path)
    with pytest.raises(OSError, match="link of another user"):
        own_files.followed(link / "made")


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "logs"):
        with pytest.raises(UserError, match="director"):
            own_files.make_directory(path)
