"""Logs that other processes write: followed, looked at, rotated while they are being written."""

import stat
from pathlib import Path

import pytest

from dp_vllm.local.logs import LAG_BYTES, Follower, begin_of_last, last_lines, rotate, rotate_if_large
from dp_vllm.local.logs import append as add


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "replica-0.log"


def append(log: Path, data: bytes) -> None:
    with log.open("ab") as file:
        file.write(data)


def test_a_follower_gives_each_whole_line_once(log: Path) -> None:
    follower = Follower(log)
    assert list(follower.new_lines()) == []
    append(log, b"one\ntwo\nthr")
    assert list(follower.new_lines()) == ["one", "two"]
    append(log, b"ee\n")
    assert list(follower.new_lines()) == ["three"]
    assert list(follower.new_lines()) == []


def test_of_a_progress_bar_only_the_newest_state_is_shown(log: Path) -> None:
    follower = Follower(log)
    append(log, b"10%\r20%\r")
    assert list(follower.new_lines()) == []
    append(log, b"30%\r40%\r\n")
    assert list(follower.new_lines()) == ["40%"]


def test_colours_stay_and_what_could_harm_a_terminal_goes(log: Path) -> None:
    append(log, b"\x1b[31mred\x1b[0m \x1b[2Jclear \x07bell \x1b]0;title\x07 tab\tend \xff\n")
    assert list(Follower(log).new_lines()) == ["\x1b[31mred\x1b[0m [2Jclear bell ]0;title tab\tend �"]


def test_a_follower_that_is_far_behind_says_what_it_leaves_out(log: Path) -> None:
    append(log, b"early\n" + b"x" * LAG_BYTES + b"\nlate\n")
    lines = list(Follower(log).new_lines())
    assert lines[0] == f"... 1 MiB are left out here; they are in {log}"
    assert lines[-1] == "late"
    assert "early" not in lines


def test_a_line_without_end_is_not_kept_for_ever(log: Path) -> None:
    follower = Follower(log)
    for _ in range(20):
        append(log, b"x" * 100_000)
        assert list(follower.new_lines()) == []
    append(log, b"\n")
    assert len(*follower.new_lines()) < 100_000


def test_rotation_keeps_the_last_three_and_the_writer_writes_on(log: Path) -> None:
    follower = Follower(log)
    with log.open("ab", buffering=0) as writer:
        for number in range(5):
            writer.write(b"log %d\n" % number)
            assert list(follower.new_lines()) == [f"log {number}"]
            rotate(log)
        assert log.read_bytes() == b""
        writer.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert list(follower.new_lines()) == ["new"]
    older = sorted(path.name for path in log.parent.iterdir())
    assert older == ["replica-0.log", "replica-0.log.1", "replica-0.log.2", "replica-0.log.3"]
    assert log.with_name("replica-0.log.1").read_bytes() == b"log 4\n"


def test_rotated_logs_are_as_private_as_the_log_and_no_link_is_followed(log: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("as it was")
    append(log, b"one\n")
    log.chmod(0o600)
    for name in ("replica-0.log.copy", "replica-0.log.1", "replica-0.log.2"):
        log.with_name(name).symlink_to(precious)
    rotate(log)
    assert stat.S_IMODE(log.with_name("replica-0.log.1").lstat().st_mode) == 0o600
    assert log.with_name("replica-0.log.1").read_bytes() == b"one\n" and log.read_bytes() == b""
    log.unlink()
    log.symlink_to(precious)
    for write in (rotate, lambda path: add(path, "line")):
        with pytest.raises(OSError, match="symbolic link"):
            write(log)
    assert precious.read_text() == "as it was"
    assert last_lines(log) == list(Follower(log).new_lines()) == [], "nor is what it points to shown"


def test_a_small_or_missing_log_is_not_rotated(log: Path) -> None:
    rotate(log)
    rotate_if_large(log)
    append(log, b"small\n")
    rotate_if_large(log)
    assert log.read_bytes() == b"small\n"
    rotate_if_large(log, limit_bytes=3)
    assert log.read_bytes() == b""


def test_the_last_lines_are_those_of_the_newest_start(log: Path) -> None:
    assert last_lines(log) == []
    append(log, b"old\n")
    since = log.stat().st_size
    append(log, b"new\nbar 10%\rbar 20%")
    assert last_lines(log) == ["old", "new", "bar 20%"]
    assert last_lines(log, since) == ["new", "bar 20%"]
    assert last_lines(log, since=10_000) == ["old", "new", "bar 20%"]


@pytest.mark.parametrize(
    ("lines", "shown"), [(0, []), (1, ["c"]), (2, ["b", "c"]), (3, ["a", "b", "c"]), (9, ["a", "b", "c"])]
)
def test_the_last_lines_are_found_wherever_they_begin(tmp_path: Path, lines: int, shown: list[str]) -> None:
    path = tmp_path / "log"
    assert begin_of_last(path, lines) == 0, "there is no log yet"
    for filled in ("", "x" * 100_000):
        path.write_text("".join(f"{line}{filled}\n" for line in "abc"))
        follower = Follower(path, begin_of_last(path, lines))
        assert [line[0] for line in follower.new_lines()] == shown
