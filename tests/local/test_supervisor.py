"""Whole runs of stand-in programs: they start, die, are restarted, and end, and nothing of them stays behind."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from ports import free_port
from programs import Program, is_alive, python, running, wait_until

from dp_vllm import endpoints
from dp_vllm.endpoints import Endpoint, State
from dp_vllm.local import run, segments
from dp_vllm.local.run_directory import RunDirectory

SERVE = Path(__file__).with_name("serve_stand_ins.py")


@dataclass(frozen=True, slots=True)
class Run:
    """A supervisor that a test started, and where to look at what it does."""

    program: Program
    directory: RunDirectory
    port: int

    def endpoint(self, replica: int = 0) -> Endpoint | None:
        if not self.directory.endpoints.exists():
            return None
        return endpoints.read(self.directory.endpoints).endpoints[replica]

    def is_ready(self, replica: int = 0) -> bool:
        endpoint = self.endpoint(replica)
        return endpoint is not None and endpoint.state is State.READY

    def pid(self, child: str) -> int:
        """Of a program that runs: `gateway`, or a replica."""
        record = run.read(self.directory)
        assert record is not None
        return record.children[child].program.pid

    def log(self, replica: int = 0) -> str:
        path = self.directory.replica_log(str(replica))
        return path.read_text() if path.exists() else ""

    def is_printed(self, words: str, replica: int = 0) -> bool:
        return words in self.log(replica)

    def says(self, words: str) -> None:
        wait_until(lambda: words in self.program.output(), lambda: f"{words}\n{self.program.output()}")

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.program.pid).children(recursive=True)

    def gateway_answers(self) -> int:
        """The pid of the gateway that answers at the endpoint."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=20) as response:
            return int(response.read())

    def set_in_flight(self, **counts: int) -> None:
        path = self.directory.path / "in-flight"
        new = path.with_suffix(".new")
        new.write_text("".join(f"{name[1:]} {count}\n" for name, count in counts.items()))
        new.replace(path)


def words(base: Path, port: int, engines: tuple[str, ...], shutdown_seconds: float = 0, gateway: str = "") -> list[str]:
    return python(str(SERVE), str(base), str(port), str(shutdown_seconds), gateway, *engines)


@contextlib.contextmanager
def serving(tmp_path: Path, *engines: str, shutdown_seconds: float = 0, gateway: str = "") -> Iterator[Run]:
    port = free_port()
    argv = words(tmp_path, port, engines, shutdown_seconds, gateway)
    with running(argv, tmp_path / "supervisor.log") as program:
        yield Run(program, RunDirectory(tmp_path / "run", tmp_path / "logs"), port)


def wait_for_end(processes: list[psutil.Process], seconds: float) -> None:
    wait_until(lambda: not any(map(is_alive, processes)), f"{processes} end", seconds)


def test_a_run_begins_serves_and_ends_without_a_trace(tmp_path: Path) -> None:
    with serving(tmp_path, "", "") as served:
        wait_until(lambda: served.is_ready(0) and served.is_ready(1), "both replicas are ready")
        assert served.gateway_answers() == served.pid("gateway")
        processes = served.descendants()
        assert len(processes) == 6, "three programs, a guardian each"
        served.says("ready: 2 of 2")
        record = run.read(served.directory)
        assert record and record.cards == ("GPU-0", "GPU-1"), "another run is told whose they are"
        served.program.signal(signal.SIGTERM)
        assert served.program.wait() == 0
        assert not served.directory.path.exists()
        assert not list(filter(is_alive, processes))
        assert not served.directory.crashes.exists(), "nothing ended that was not asked to"
        assert f"http://127.0.0.1:{served.port}/v1/chat/completions" in served.program.output()
        assert re.search(r"^dp-vllm   \| stopped$", served.program.output(), re.MULTILINE)


def test_a_replica_that_dies_is_restarted_when_nothing_of_it_is_left_and_the_other_one_stays(tmp_path: Path) -> None:
    with serving(tmp_path, "--stubborn-child", "") as served:
        wait_until(lambda: served.is_ready(0) and served.is_ready(1), "both replicas are ready")
        wait_until(lambda: served.is_printed("stubborn"), "the first has its child")
        child = psutil.Process(int(re.findall(r"stubborn (\d+)", served.log())[0]))
        before, other = served.endpoint(0), served.pid("1")
        os.kill(served.pid("0"), signal.SIGKILL)
        wait_until(lambda: not served.is_ready(0), "its end is published")
        down = served.endpoint(0)
        served.says("replica 0 ended (killed by SIGKILL); it is started again in 1 s")
        wait_until(lambda: served.log().count("pid") == 2, "it is started again")
        assert not is_alive(child)
        wait_until(lambda: served.is_ready(0), "it is ready again")
        after = served.endpoint(0)
        assert before and down and after
        assert down.message == "replica 0 ended (killed by SIGKILL) and is started again"
        assert (before.address, before.incarnation, after.incarnation) == (after.address, "1", "2")
        assert served.pid("1") == other


def test_a_replica_that_fails_thrice_in_the_same_way_stays_down_and_others_serve(tmp_path: Path) -> None:
    with serving(tmp_path, "", "--fail 'RuntimeError: CUDA out of memory'") as served:
        served.says("replica 1 stays down")
        assert served.log(1).count("CUDA out of memory") == 3
        assert "    RuntimeError: CUDA out of memory\n" in served.program.output()
        endpoint = served.endpoint(1)
        assert endpoint is not None and endpoint.state is State.DOWN
        assert "replica 1 stays down (exit status 1: the memory of the GPU does not suffice" in endpoint.message
        assert served.is_ready(0)


def test_a_run_in_which_no_replica_comes_up_ends_with_status_1_and_names_what_is_missing(tmp_path: Path) -> None:
    with serving(tmp_path, "exec /no/such/engine", shutdown_seconds=600) as served:
        assert served.program.wait() == 1
        assert "(it cannot be started: /no/such/engine: No such file or directory)" in served.program.output()
        assert "no replica came up" in served.program.output()


def test_a_run_whose_gateway_cannot_start_ends_with_status_1(tmp_path: Path) -> None:
    with serving(tmp_path, "", gateway="--fail 'no such certificate'") as served:
        assert served.program.wait() == 1
        assert "the gateway stays down" in served.program.output()
        assert "exit status 1: no such certificate" in served.program.output()


def test_a_killed_gateway_is_back_on_the_same_socket_and_engines_stay(tmp_path: Path) -> None:
    with serving(tmp_path, "") as served:
        wait_until(served.is_ready, "the replica is ready")
        first, engine = served.gateway_answers(), served.pid("0")
        os.kill(first, signal.SIGSTOP)
        with socket.create_connection(("127.0.0.1", served.port), timeout=20) as waiting:
            waiting.sendall(b"GET / HTTP/1.1\r\n\r\n")
            os.kill(first, signal.SIGKILL)
            answer = waiting.recv(1000)
        second = int(answer.rpartition(b"\n")[2])
        assert second != first
        assert served.gateway_answers() == second
        assert served.pid("0") == engine
        served.says("the gateway ended (killed by SIGKILL); it is started again at once")


def test_nothing_is_left_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    with serving(tmp_path, "--ignore-terms 99 --stubborn-child", "") as served:
        wait_until(lambda: served.is_ready(0) and served.is_ready(1), "both replicas are ready")
        wait_until(lambda: served.is_printed("stubborn"), "the child in another session is there")
        processes = served.descendants()
        assert len(processes) == 7
        served.program.signal(signal.SIGKILL)
        wait_for_end(processes, seconds=5)


def test_a_run_follows_at_once_on_one_that_was_killed(tmp_path: Path) -> None:
    with serving(tmp_path, "") as served:
        wait_until(served.is_ready, "it is ready")
        served.program.signal(signal.SIGKILL)
        served.program.wait()
        with running(words(tmp_path, served.port, ("",)), tmp_path / "again.log") as again:
            wait_until(lambda: "ready: 1 of 1" in again.output(), "the new run is ready")


@pytest.fixture
def shared_files() -> Iterator[list[Path]]:
    """Two files in /dev/shm with names as an engine's libraries make them."""
    paths = [segments.SHM / f"psm_{uuid.uuid4().hex[:8]}" for _ in range(2)]
    for path in paths:
        path.write_bytes(bytes(4096))
    yield paths
    for path in paths:
        path.unlink(missing_ok=True)


def test_a_killed_engine_leaves_a_report_and_no_shared_memory_and_a_killed_run_none_for_the_next(
    tmp_path: Path, shared_files: list[Path]
) -> None:
    with serving(tmp_path, *(f"--shared-memory {path}" for path in shared_files)) as served:
        records = [served.directory.replica_segments(name) for name in "01"]
        wait_until(lambda: all(record.exists() for record in records), "their shared memory is noted")
        os.kill(served.pid("0"), signal.SIGKILL)
        wait_until(lambda: not shared_files[0].exists(), "what the first has left is removed")
        (folder,) = served.directory.crashes.iterdir()
        served.says("replica 0 ended (killed by SIGKILL); it is started again in ")
        served.says(f"; see {folder}/report.txt")
        assert (folder / "report.txt").read_text().startswith("replica 0 ended: killed by SIGKILL\n")
        assert "mapped 4096" in (folder / "log").read_text()
        processes = served.descendants()
        served.program.signal(signal.SIGKILL)
        served.program.wait()
        wait_for_end(processes, seconds=5)
        assert shared_files[1].exists()
        with running(words(tmp_path, served.port, ("",)), tmp_path / "again.log") as again:
            wait_until(lambda: "ready: 1 of 1" in again.output(), "the new run is ready")
            assert not shared_files[1].exists()


def test_a_starting_engine_that_swallows_the_first_sigterm_gets_a_second(tmp_path: Path) -> None:
    with serving(tmp_path, "--never-ready --ignore-terms 1", shutdown_seconds=600) as served:
        wait_until(lambda: served.is_printed("handlers are set"), "it starts")
        served.program.signal(signal.SIGTERM)
        assert served.program.wait() == 0
        assert served.log().count("SIGTERM") == 2


def test_an_engine_that_ignores_sigterm_is_killed_after_the_deadline(tmp_path: Path) -> None:
    with serving(tmp_path, "--ignore-terms 99") as served:
        wait_until(served.is_ready, "it is ready")
        served.program.signal(signal.SIGTERM)
        assert served.program.wait() == 0
        assert served.log().count("SIGTERM") == 1


def test_an_engine_is_told_to_end_only_when_nothing_is_in_flight_on_it(tmp_path: Path) -> None:
    with serving(tmp_path, "", "", shutdown_seconds=600) as served:
        served.says("ready: 2 of 2")  # and the gateway knows both
        served.set_in_flight(_0=1, _1=0)
        served.program.signal(signal.SIGTERM)
        wait_until(lambda: served.is_printed("SIGTERM", replica=1), "the idle one is told")
        served.says("1 request in flight, 600 s left")
        assert not served.is_printed("SIGTERM", replica=0)
        served.set_in_flight(_0=0)
        assert served.program.wait() == 0
        assert served.is_printed("SIGTERM", replica=0)


def test_the_second_ctrl_c_ends_everything_at_once_and_engines_never_see_the_first(tmp_path: Path) -> None:
    with serving(tmp_path, "--ignore-terms 99", shutdown_seconds=600) as served:
        served.says("ready: 1 of 1")  # and the gateway knows it
        served.set_in_flight(_0=1)
        os.killpg(served.program.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
        served.says("1 request in flight")
        os.killpg(served.program.pid, signal.SIGINT)
        assert served.program.wait() == 0
        assert "SIGINT" not in served.log() and "SIGTERM" not in served.log()


def test_a_flood_of_output_that_nobody_reads_blocks_nobody(tmp_path: Path) -> None:
    argv = words(tmp_path, free_port(), ("--flood-mib 150",))
    directory = RunDirectory(tmp_path / "run", tmp_path / "logs")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as supervisor:
        try:
            assert supervisor.stdout is not None
            wait_until(lambda: "handlers are set" in tail(directory.replica_log("0")), "the engine wrote all of it")
            supervisor.send_signal(signal.SIGTERM)
            assert supervisor.wait(20) == 0
            assert len(supervisor.stdout.read()) < 4 << 20
        finally:
            supervisor.kill()


def tail(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1000))
        return file.read().decode()


def test_a_second_run_of_the_same_name_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with serving(tmp_path, "") as served:
        wait_until(served.is_ready, "it is ready")
        with running(words(tmp_path, free_port(), ("",)), tmp_path / "second.log") as second:
            assert second.wait() == 1
            expected = f"dp-vllm: the run run is already there: process {served.program.pid} ({sys.executable} "
            assert second.output().startswith(expected)
        assert served.is_ready()


def test_a_taken_port_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running(words(tmp_path, port, ("",)), tmp_path / "log") as refused:
            assert refused.wait() == 1
            assert refused.output().startswith(f"dp-vllm: --port: {port} is taken by process {os.getpid()} (")
    assert not (tmp_path / "run").exists()
    assert list((tmp_path / "logs").iterdir()) == []


@pytest.fixture
def hangups_count() -> Iterator[None]:
    """Where the tests are run under nohup, programs would ignore that their terminal was closed, and rightly."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangups_count")
def test_a_terminal_that_is_closed_ends_it_in_order(tmp_path: Path) -> None:
    with serving(tmp_path, "") as served:
        wait_until(served.is_ready, "it is ready")
        served.program.signal(signal.SIGHUP)
        assert served.program.wait() == 0
        assert not served.directory.path.exists()
