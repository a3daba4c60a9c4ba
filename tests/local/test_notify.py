"""What systemd is told, on a socket like its own."""

import contextlib
import socket
from pathlib import Path

import pytest

from dp_vllm.endpoints import State
from dp_vllm.local.notify import Notifier, state_of
from dp_vllm.local.standing import Program, Replica, Run


def program(state: State, message: str = "") -> Program:
    return Program(
        state=state,
        pid=1,
        starts=1,
        ready_seconds=None,
        starting_seconds=None,
        message=message,
        failures=0,
        last_end=None,
        stays_down=False,
        log="",
    )


def run(*replicas: State, gateway: State = State.READY, stopping: bool = False) -> Run:
    return Run(
        name="8000",
        model="m",
        engine="sim",
        endpoint="http://127.0.0.1:8000",
        supervisor_pid=1,
        seconds=1.0,
        stopping=stopping,
        generation=1,
        gateway=program(gateway),
        replicas=tuple(
            Replica(
                **{name: getattr(program(state, "half"), name) for name in Program.__struct_fields__},
                name=str(number),
                gpus=(),
                worst_link=None,
                address="",
                ordered=None,
                drain_seconds=None,
            )
            for number, state in enumerate(replicas)
        ),
    )


def test_how_the_run_stands_in_systemds_words() -> None:
    assert state_of(run(State.READY, State.STARTING), has_served=True) == {
        "READY": "1",
        "STATUS": "1 of 2 replicas of m serve at http://127.0.0.1:8000; replica 1: half",
    }
    assert "READY" not in state_of(run(State.STARTING), has_served=False)
    assert state_of(run(State.READY, stopping=True), has_served=True) == {"STOPPING": "1", "STATUS": "ending"}


def test_what_is_new_is_sent_once_and_readiness_stays(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as systemd:
        systemd.bind(str(path))
        systemd.setblocking(False)
        notifier = Notifier({"NOTIFY_SOCKET": str(path)})
        for state in (
            run(State.READY, gateway=State.STARTING),
            run(State.READY),
            run(State.READY),
            run(State.STARTING),
        ):
            notifier.tell(lambda state=state: state)  # type: ignore[misc]
        first, ready, gone = (systemd.recv(4096).decode() for _ in range(3))
        with pytest.raises(BlockingIOError):
            systemd.recv(4096)
    assert first.startswith("STATUS=") and "READY" not in first
    assert ready == "READY=1"
    assert gone.startswith("STATUS=0 of 1")
    notifier.tell(lambda: run(State.READY))  # nobody listens any more
