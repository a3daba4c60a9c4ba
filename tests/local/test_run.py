"""A run's directory belongs to one supervisor, is private, and is gone after it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from programs import wait_until

from dp_vllm.errors import UserError
from dp_vllm.local import pids, run
from dp_vllm.local.pids import ProcessId
from dp_vllm.local.run import Guarded, Record
from dp_vllm.local.run_directory import RunDirectory


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "runs" / "demo", tmp_path / "state" / "logs")


def record(*children: Guarded) -> Record:
    me = pids.identify(os.getpid())
    return Record(me, "demo/model", "http://127.0.0.1:8000", {str(n): child for n, child in enumerate(children)})


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_directory_is_private_and_removed_at_the_end(directory: RunDirectory) -> None:
    with run.claimed(directory, {directory.keys: "secret\n"}):
        assert mode(directory.path) == 0o700 and mode(directory.path.parent) == 0o700
        assert mode(directory.keys) == 0o600 and directory.keys.read_text() == "secret\n"
        directory.endpoints.write_text("{}")
    assert not directory.path.exists()
    assert mode(directory.logs) == 0o700


def test_a_record_is_read_as_it_was_written(directory: RunDirectory) -> None:
    assert run.read(directory) is None
    with run.claimed(directory, {}):
        written = record(Guarded(ProcessId(2, 20), ProcessId(3, 30)))
        run.write(directory, written)
        assert run.read(directory) == written


def test_a_second_run_with_the_same_name_is_refused_and_told_who_holds_it(directory: RunDirectory) -> None:
    with run.claimed(directory, {}):
        run.write(directory, record())
        with pytest.raises(UserError, match=rf"the run demo is already there: process {os.getpid()} \(.*pytest"):
            run.claimed(directory, {}).__enter__()
        assert directory.path.exists()
    with run.claimed(directory, {}):
        pass


def test_what_a_killed_supervisor_left_is_cleared_away(directory: RunDirectory) -> None:
    code = """
import pathlib, sys, time
from dp_vllm.local import run
from dp_vllm.local.run_directory import RunDirectory
directory = RunDirectory(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
with run.claimed(directory, {}):
    directory.replica_socket("0").touch()
    time.sleep(600)
"""
    killed = subprocess.Popen([sys.executable, "-c", code, str(directory.path), str(directory.logs)])
    wait_until(directory.replica_socket("0").exists, "the other process has claimed the run")
    killed.kill()
    killed.wait()
    with run.claimed(directory, {}):
        assert list(directory.path.iterdir()) == []


def test_a_new_run_waits_for_the_guardians_of_a_killed_one(directory: RunDirectory) -> None:
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as guardian:
        identity = pids.identify(guardian.pid)
        directory.path.mkdir(parents=True)
        run.write(directory, record(Guarded(identity, ProcessId(1, 1))))
        with pytest.raises(UserError, match=rf"processes of the former run demo do not end .guardian {identity.pid}"):
            run.claimed(directory, {}, guardian_seconds=0.1).__enter__()
        assert guardian.stdin is not None
        guardian.stdin.close()
        with run.claimed(directory, {}):
            assert not identity.alive


def test_a_directory_that_could_be_somebody_elses_is_refused(directory: RunDirectory, tmp_path: Path) -> None:
    directory.path.parent.mkdir()
    directory.path.symlink_to(tmp_path)
    with pytest.raises(UserError, match="is not a directory of yours"):
        run.claimed(directory, {}).__enter__()


def test_a_directory_that_others_could_read_is_closed(directory: RunDirectory) -> None:
    directory.path.parent.mkdir(mode=0o755)
    with run.claimed(directory, {}):
        assert mode(directory.path.parent) == 0o700
