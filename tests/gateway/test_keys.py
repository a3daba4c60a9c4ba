"""Who has a key, as the files of keys change."""

import os
import re
from pathlib import Path

import pytest

from dp_vllm.errors import UserError
from dp_vllm_gateway.app import OPEN_PATHS
from dp_vllm_gateway.keys import Keys

USER, ADMIN = ("alice", False), ("ops", True)


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_text("alice: hers\n")
    return path


@pytest.fixture
def admins(tmp_path: Path) -> Path:
    path = tmp_path / "admins"
    path.write_text("ops: theirs\n")
    return path


def replace(path: Path, text: str) -> None:
    """As an editor does."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def test_without_keys_none_is_required() -> None:
    keys = Keys()
    assert (keys.required, keys.restricted, keys.problem) == (False, False, "")
    assert keys.holder_of(None) is keys.holder_of(b"") is keys.holder_of(b"x") is None


def test_given_keys_are_numbered_and_an_administrators_key_is_one_wherever_it_stands(users: Path, admins: Path) -> None:
    keys = Keys(("a", "b", "c"), users, ("b", "hers"))
    assert keys.required and keys.restricted
    assert [keys.holder_of(key) for key in (b"a", b"b", b"c")] == [("key1", False), ("admin1", True), ("key3", False)]
    assert keys.holder_of(b"hers") == ("admin2", True)
    admins.write_text("ops: hers\n")
    assert Keys((), users, (), admins).holder_of(b"hers") == ADMIN


def test_all_keys_of_the_administrators_file_are_theirs(users: Path, admins: Path) -> None:
    keys = Keys((), users, (), admins)
    assert (keys.holder_of(b"hers"), keys.holder_of(b"theirs"), keys.restricted) == (USER, ADMIN, True)
    replace(admins, "")
    keys.refresh()
    assert (keys.holder_of(b"hers"), keys.holder_of(b"theirs"), keys.restricted) == (USER, None, True)
    assert not keys.problem, "users' keys count without administrators"
    with pytest.raises(UserError, match=r"^--admin-api-key-file: the key file .*/admins: it holds no key$"):
        keys.demand_usable()


def test_a_file_of_administrators_alone_closes_the_endpoint_for_others(admins: Path) -> None:
    keys = Keys((), None, (), admins)
    assert keys.required and keys.restricted and not keys.problem
    admins.unlink()
    keys.refresh()
    assert "cannot be read: No such file" in keys.problem
    assert keys.required and keys.restricted and keys.holder_of(b"theirs") is None


def test_administrators_do_not_make_up_for_a_file_that_is_lost(users: Path, admins: Path) -> None:
    users.unlink()
    assert "cannot be read" in Keys((), users, (), admins).problem
    keys = Keys(("given",), users)
    assert not keys.problem and keys.holder_of(b"given")


def test_a_wrong_line_closes_the_endpoint_until_the_file_has_been_right(users: Path) -> None:
    users.write_text("")
    keys = Keys((), users)
    assert keys.problem == f"the key file {users}: it holds no key"
    for text, alice, problem in (
        ("alice: hers\nbob=his", None, "line 2: "),
        ("alice: hers", USER, ""),
        ("alice: hers\nbob=his", USER, ""),
        ("bob=his", None, "line 1: "),
        ("alice: hers\nbob=his", USER, ""),
    ):
        replace(users, text)
        keys.refresh()
        assert keys.holder_of(b"hers") == alice, text
        assert problem in keys.problem and bool(problem) == bool(keys.problem), text
        assert keys.holder_of(b"his") is keys.holder_of(b"bob=his") is None


def test_a_secret_is_followed_as_the_kubelet_changes_it(tmp_path: Path) -> None:
    """The directory that a symbolic link names is replaced; times and sizes may be the same."""
    for number in (1, 2):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "keys").write_text(f"key-{number}")
        os.utime(tmp_path / f"..{number}" / "keys", (1, 1))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "keys").symlink_to("..data/keys")
    keys = Keys((), tmp_path / "keys")
    assert keys.holder_of(b"key-1")
    (tmp_path / "..new").symlink_to("..2")
    os.replace(tmp_path / "..new", tmp_path / "..data")
    keys.refresh()
    assert keys.holder_of(b"key-1") is None and keys.holder_of(b"key-2")


def test_a_change_is_seen_whatever_the_files_times_are(users: Path) -> None:
    keys = Keys((), users)
    before = users.stat()
    users.write_text("alice: mine\n")
    os.utime(users, ns=(before.st_atime_ns, before.st_mtime_ns))
    keys.refresh()
    assert keys.holder_of(b"hers") is None and keys.holder_of(b"mine")


def test_what_is_no_file_of_keys_closes_the_endpoint(users: Path, tmp_path: Path) -> None:
    keys = Keys((), users)
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "huge").write_bytes(b"alice: hers\n" * (1 << 17))
    (tmp_path / "loop").symlink_to("loop")
    for name, problem in (
        ("directory", "directory"),
        ("pipe", "not a regular file"),
        ("huge", "more than 1 MiB"),
        ("loop", "Too many levels of symbolic links"),
    ):
        users.unlink()
        users.symlink_to(name)
        keys.refresh()
        assert problem in keys.problem and keys.holder_of(b"hers") is None


def test_the_security_document_lists_what_needs_no_key() -> None:
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    (row,) = (line for line in text.splitlines() if line.startswith("| `GET`, `HEAD` of "))

    assert set(re.findall(r"`(/[^`]*)`", row.split("|")[1])) == OPEN_PATHS
