"""`dp-vllm status`, `logs`, `drain`, `restart` and `scale` before a run of stand-in programs."""

import contextlib
import json
import os
import shlex
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from ports import free_port
from programs import Program, python, running, wait_until

from dp_vllm.errors import BadSettings, UserError
from dp_vllm.local import logs, run
from dp_vllm.local.operate import change, show_logs, status
from dp_vllm.local.run_directory import RunDirectory

STAND_INS = Path(__file__).parents[1]


class Run:
    """A supervisor with replicas that are used."""

    def __init__(self, base: Path, program: Program) -> None:
        self.directory = RunDirectory(base / "run", base / "logs")
        self.program = program

    def pids(self) -> dict[str, int]:
        """Of what runs, by name."""
        record = run.read(self.directory)
        assert record is not None
        return {name: child.program.pid for name, child in record.children.items()}

    def set_in_flight(self, replica: int, count: int) -> None:
        new = self.directory.path / "in-flight.new"
        new.write_text(f"{replica} {count}\n")
        new.replace(new.with_suffix(""))


@contextlib.contextmanager
def serving(tmp_path: Path, *engines: str) -> Iterator[Run]:
    base = tmp_path / "dp-vllm"
    base.mkdir()
    words = python(str(STAND_INS / "serve_stand_ins.py"), str(base), str(free_port()), "0", "", *engines)
    said = f"ready: {len(engines)} of {len(engines)}"
    log = tmp_path / "supervisor.log"
    with running(words, log, ready=lambda: said in log.read_text()) as program:
        yield Run(base, program)


@pytest.fixture(autouse=True)
def in_this_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the commands look for runs."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def call(command: click.Command, *words: str) -> int:
    return int(command.main(list(words), standalone_mode=False) or 0)


def once(replica: Path) -> str:
    """An engine of which only the first life comes up."""
    script = f"mkdir {replica}.once || {{ echo boom; exit 1; }}; exec {sys.executable} -u "
    script += f"{STAND_INS / 'stand_in_engine.py'} --uds {replica}"
    return f"exec sh -c {shlex.quote(script)}"


def test_a_roll_stops_at_a_replica_that_does_not_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path, once(tmp_path / "dp-vllm" / "run" / "replica-0.sock"), "") as served:
        before = served.pids()["1"]
        with pytest.raises(UserError) as error:
            call(change.restart, "--rolling")
        assert str(error.value) == (
            "the roll stops, replica 0 did not come back: exit status 1: boom; not restarted: replica 1"
        )
        assert served.pids()["1"] == before
        assert call(status.main, "--once") == 0, "one serves"
        told = capsys.readouterr().out
        assert "run  partly  demo/model" in told and "exit status 1: boom" in told
        with pytest.raises(UserError, match="the roll stops before replica 1: no other replica serves its model now"):
            call(change.restart, "--rolling", "1")
        assert call(change.scale, "-dp", "3") == 0
        assert "replica 2: serves" in capsys.readouterr().out


def test_one_command_at_a_time_changes_a_run_and_ctrl_c_leaves_the_order_in_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path, "", "") as served:
        served.set_in_flight(0, 1)
        words = python("-m", "dp_vllm", "drain", "0")
        with running(words, tmp_path / "drain.log") as drain:
            wait_until(lambda: "replica 0: draining, 1 in flight" in drain.output(), drain.output)
            with pytest.raises(UserError, match=f"the run run is being changed by process {drain.pid} \\(.*drain 0\\)"):
                call(change.restart, "1")
            drain.signal(signal.SIGINT)
            assert drain.wait() == 130
            assert drain.output().endswith(
                "dp-vllm: not waiting any longer: the drain of replica 0 goes on; `dp-vllm restart 0` brings it "
                "back; `dp-vllm status` shows it\n"
            )
        assert "0" in served.pids()
        served.set_in_flight(0, 0)
        wait_until(lambda: "0" not in served.pids(), "it ended")
        assert call(change.drain, "0", "--name", "run") == 0, "it is down"
        capsys.readouterr()
        assert call(change.restart, "0", "1") == 0
        assert capsys.readouterr().out.startswith("no other replica serves, so clients get 503 until one is back\n")
        assert set(served.pids()) == {"gateway", "0", "1"}


def test_status_tells_of_a_run_and_of_one_that_was_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path, "") as served:
        assert call(status.main, "run", "--json") == 0
        (told,) = json.loads(capsys.readouterr().out)["runs"]
        assert (told["name"], told["state"], told["supervisor_pid"]) == ("run", "ready", served.program.pid)
        (replica,) = told["replicas"]
        assert replica["serves"] and replica["starts"] == 1 and replica["pid"] == served.pids()["0"]
        assert stat.S_IMODE(served.directory.supervisor_socket.stat().st_mode) == 0o600
        with running(python("-m", "dp_vllm", "logs", "-f"), tmp_path / "logs.log") as follower:
            wait_until(lambda: "handlers are set" in follower.output(), follower.output)
            served.program.signal(signal.SIGKILL)
            served.program.wait()
            assert follower.wait() == 0, "it ends with the run"
        assert call(status.main) == 1
        gone = f"the run run is gone: its supervisor (process {served.program.pid}) was killed"
        assert gone in capsys.readouterr().out
        with pytest.raises(UserError, match="the run run is gone"):
            call(change.drain, "0")
    assert call(show_logs.main, "--name", "run", "0", "-n", "1") == 0
    assert capsys.readouterr().out == "replica 0 | handlers are set\n"


def test_logs_are_followed_through_a_rotation(ran: Run, tmp_path: Path) -> None:
    log = ran.directory.replica_log("0")
    logs.append(log, "one\ntwo")
    words = python("-m", "dp_vllm", "logs", "-f", "-n", "1", "0")
    with running(words, tmp_path / "logs", env={"XDG_RUNTIME_DIR": str(ran.directory.path.parent.parent)}) as follower:
        wait_until(lambda: follower.output() == "replica 0 | two\n", follower.output)
        logs.rotate(log)
        logs.append(log, "three")
        wait_until(lambda: follower.output() == "replica 0 | two\nreplica 0 | three\n", follower.output)


@pytest.mark.parametrize(
    ("command", "words", "error", "said"),
    [
        (change.restart, [], BadSettings, "say which replicas: their numbers, --rolling for all one after another"),
        (change.restart, ["--all", "0"], BadSettings, "--all restarts all replicas at once; leave out the others"),
        (change.drain, ["7"], UserError, "there is no replica 7; there are 0"),
        (change.restart, ["0", "7"], UserError, "there is no replica 7; there are 0"),
        (change.scale, ["-dp", "0"], UserError, "-dp: 0 replicas cannot serve; to end the run, press Ctrl-C"),
        (change.drain, ["0", "--name", "nope"], UserError, "there is no run nope; give --name run"),
        (change.drain, ["0", "--timeout", "nan"], click.BadParameter, "'nan' is not a number"),
        (show_logs.main, ["7"], UserError, "there is no log of 7 in "),
        (status.main, ["run", "--name", "other"], BadSettings, "NAME is run and --name is other; give one of them"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    ran: Run,
    command: click.Command,
    words: list[str],
    error: type[Exception],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(ran.directory.path.parent.parent))
    with pytest.raises(error) as raised:
        call(command, *words)
    assert str(raised.value).startswith(said)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with serving(tmp_path_factory.mktemp("ran"), "") as served:
        yield served


def test_without_a_run_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(status.main) == 0
    assert capsys.readouterr().out == "There is no run of yours; start one with `dp-vllm serve`.\n"
    with pytest.raises(UserError, match="there is no run of yours; start one with `dp-vllm serve`"):
        call(change.scale, "-dp", "2")
    assert os.listdir(tmp_path) == []
