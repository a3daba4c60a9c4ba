"""`dp-vllm explain`, as a shell sees it, before a gateway that runs; and what it says of a decision."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import programs
import pytest
import scripted
import wire
from scripted import Engines

from dp_vllm.local.why import Candidate, Decision, why

PROGRAM = str(Path(sys.executable).with_name("dp-vllm"))
PROMPT = "a beginning that several prompts share. " * 100


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs have their directories: one has a gateway with decisions, one a gateway that was asked for nothing."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    with scripted.engine() as first, scripted.engine() as second:
        yield first, second


@contextlib.contextmanager
def run(runs: Path, name: str, engines: Engines) -> Iterator[programs.Program]:
    """A gateway as a run of that name has it."""
    directory = runs / "dp-vllm" / name
    directory.mkdir(parents=True)
    with scripted.gateway(directory, engines, "--admin-socket", str(directory / "admin.sock")) as program:
        yield program


@pytest.fixture(scope="module", autouse=True)
def asked(runs: Path, engines: Engines) -> Iterator[None]:
    with run(runs, "busy", engines) as program, run(runs, "idle", engines):
        wire.complete(program.url, {"x-request-id": "first"}, prompt=PROMPT + "one")
        wire.complete(program.url, {"x-request-id": "second"}, prompt=PROMPT + "two")
        wire.complete(program.url, {"x-request-id": "third"}, prompt="short")
        yield


def explain(runs: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "XDG_RUNTIME_DIR": str(runs), **environ}
    return subprocess.run(
        [PROGRAM, "explain", *words], capture_output=True, text=True, env=env, timeout=30, check=False
    )


def told(runs: Path, *words: str) -> str:
    done = explain(runs, *words)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refused(runs: Path, *words: str, status: int = 1) -> str:
    """The one line of an error."""
    done = explain(runs, *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
    return done.stderr.removeprefix("dp-vllm: ").rstrip("\n")


def test_a_block_for_each_decision_says_why_and_shows_what_was_seen(runs: Path) -> None:
    first, second, third, cost = told(runs, "--name", "busy").split("\n\n")
    assert "first  demo/model, prompt of about 1,00" in first
    assert "(least-load): the least to wait there; 2 were equal and take turns" in first
    head, why, titles, *rows = second.splitlines()
    assert head.split()[1] == "second"
    (chosen,) = [row.split() for row in rows if row.startswith("  * ")]
    assert why.startswith(f"to replica {chosen[1]} (prefix 0.")
    assert why.endswith(f": about {chosen[3]} of them were cached there")
    assert titles.split() == ["replica", "wait", "s", "cached", "in", "flight", "cost", "s"]
    assert len(rows) == 2 and len({len(row) for row in [titles, *rows]}) == 1, "columns are aligned"
    assert "third" in third and "cached" not in third and "cost" not in third
    assert cost.startswith("cost: ")


def test_the_last_ones_one_request_and_json(runs: Path) -> None:
    last = told(runs, "--name", "busy", "--last", "2")
    assert "first" not in last and last.index("second") < last.index("third")
    one = json.loads(told(runs, "--name", "busy", "--id", "second", "--json"))
    (decision,) = one["decisions"]
    assert decision["id"] == "second" and decision["reason"].startswith("prefix 0.")
    assert {candidate["replica"] for candidate in decision["candidates"]} == {"0", "1"}
    assert one == json.loads(
        told(runs, "--admin-socket", f"{runs}/dp-vllm/busy/admin.sock", "--id", "second", "--json")
    )


def test_in_a_gateways_container_no_flag_is_needed(runs: Path) -> None:
    here = {"DP_VLLM_ADMIN_SOCKET": f"{runs}/dp-vllm/busy/admin.sock"}
    assert "third" in explain(runs, **here).stdout
    assert explain(runs, "--name", "idle", **here).stdout == "No request has been sent to a replica yet.\n"


def test_where_nothing_was_decided_yet_it_says_so(runs: Path) -> None:
    assert told(runs, "--name", "idle") == "No request has been sent to a replica yet.\n"
    assert json.loads(told(runs, "--name", "idle", "--json")) == {"decisions": []}


def test_an_id_that_is_not_known_is_named(runs: Path) -> None:
    said = refused(runs, "--name", "busy", "--id", "fourth")
    assert said.startswith("--id fourth: none of the 3 decisions that the gateway still knows is about that request")


def test_a_run_that_there_is_not_is_named_and_so_are_those_that_there_are(runs: Path, tmp_path: Path) -> None:
    assert refused(runs).startswith("there are 2 runs, so say which; give --name busy or idle, or give --admin-socket ")
    said = refused(tmp_path, "--name", "mine")
    assert said.startswith("there is no run mine; start one with `dp-vllm serve`, or ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--name", "a/b"], "--name: 'a/b' cannot name a run"),
        (["--name", "busy", "--admin-socket", "x"], "--name and --admin-socket both say which gateway"),
    ],
)
def test_flags_that_are_not_allowed_are_status_2(runs: Path, words: list[str], said: str) -> None:
    assert refused(runs, *words, status=2).startswith(said)


def test_a_gateway_that_does_not_answer_is_named(tmp_path: Path) -> None:
    nowhere, left = tmp_path / "nowhere.sock", tmp_path / "dp-vllm" / "left" / "admin.sock"
    assert refused(tmp_path, "--admin-socket", str(nowhere)).startswith(
        f"no gateway answers on {nowhere} (No such file or directory); look whether it runs"
    )
    left.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(left))
    assert refused(tmp_path, "--name", "left").startswith(f"no gateway answers on {left} (Connection refused); look ")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (scripted.whole(404, {}), "the gateway on PATH does not tell its decisions: it is an older one; start it anew"),
        (scripted.whole(200, {}), "what answers on PATH is no gateway of this version: status 200, Object missing"),
        (b"hello", "no gateway answers on PATH (hello); look whether it runs"),
    ],
)
def test_what_answers_otherwise_than_a_gateway_of_this_version_is_named(
    tmp_path: Path, answer: bytes, said: str
) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert refused(tmp_path, "--admin-socket", str(path)).startswith(said.replace("PATH", str(path)))
        thread.join()


# in words


def candidate(
    replica: str, *, wait: float = 0.0, cached: int | None = 0, in_flight: int = 0, cost: float | None = 0.0
) -> Candidate:
    return Candidate(replica, wait, cached, in_flight, 0, cost)


def decision(reason: str, *candidates: Candidate, attempt: int = 1, queued_seconds: float = 0.0) -> Decision:
    """One that chose the first of the candidates."""
    picked = candidates[0].replica
    return Decision(0.0, "a", "m", 1000, queued_seconds, attempt, picked, reason, candidates)


HERE = candidate("0", cached=900, cost=-0.36)
WAITING = candidate("0", wait=0.1, cached=900, cost=-0.26)
FREE, OTHER = candidate("1"), candidate("2")


@pytest.mark.parametrize(
    ("decided", "said"),
    [
        (decision("prefix 0.90", HERE, FREE), "about 900 of them were cached there"),
        (decision("prefix 0.90", WAITING, FREE), "about 900 of them were cached there, which was worth the wait"),
        (decision("least-load", FREE, candidate("2", cost=0.5)), "the least to wait there"),
        (decision("least-load", FREE, OTHER), "the least to wait there; 2 were equal and take turns"),
        (
            decision("least-load", FREE, candidate("0", wait=9.0, cached=900, cost=8.6)),
            "what 0 had cached of it was not worth the load there",
        ),
        (
            decision("prefix 0.10", candidate("1", cached=100), candidate("0", cached=900, cost=8.6)),
            "what 0 had cached of it was not worth the load there",
        ),
        (decision("least-load", FREE, attempt=2), "no other could be chosen; attempt 2, as the one before failed"),
        (
            decision("least-load", FREE, queued_seconds=1.5),
            "no other could be chosen; every replica was full for 1.50 s before",
        ),
        (
            decision("least-load", *(candidate(name, cached=None, cost=None) for name in "01")),
            "the least to wait there; 2 were equal and take turns",
        ),
        (decision("round-robin", FREE, OTHER), "its turn, whatever the load"),
        (decision("home", FREE), "only this one has what the request goes on from"),
    ],
)
def test_a_decision_in_words(decided: Decision, said: str) -> None:
    assert why(decided) == said
