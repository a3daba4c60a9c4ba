"""Starts the engines and gateways of a benchmark, each on its core, and ends them."""

import contextlib
import json
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import programs
import uvloop
from ports import free_port

from bench import load
from bench.cpu import Usage, on_core
from bench.load import Address, Failed
from bench.peers import Command, Engines, Peer, Place

ROOT: Final = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that answers."""

    name: str
    version: str
    pid: int
    address: Address
    usage: Usage
    in_flight: Callable[[], int | None]
    """Requests that it says are under way; None if it does not say."""


@contextlib.contextmanager
def engines(count: int, interval_seconds: float, folder: Path, core: int) -> Iterator[Engines]:
    """Engines that stream a chunk in each interval."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    ports = tuple(free_port() for _ in range(count))
    sockets = tuple(folder / f"{number}.sock" for number in range(count))
    flags = [word for port in ports for word in ("--port", str(port))]
    flags += [word for path in sockets for word in ("--uds", str(path))]
    argv = [sys.executable, "-m", "bench.engine", *flags, "--interval-seconds", str(interval_seconds)]
    addresses = [Address("127.0.0.1", port) for port in ports]
    with (
        on_core(core),
        programs.running(
            argv, folder / "engines.log", ready=lambda: all(map(_answers, addresses)), env={"PYTHONPATH": str(ROOT)}
        ),
    ):
        yield Engines(ports, sockets)


@contextlib.contextmanager
def gateway(
    name: str, peer: Peer, behind: Engines, folder: Path, core: int, *, start_seconds: float = programs.START_SECONDS
) -> Iterator[Running]:
    """A gateway before those engines, once a chat through it is answered."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = peer(Place(behind, port, free_port(), folder))
    address = Address("127.0.0.1", port)
    with contextlib.ExitStack() as stack:
        with on_core(core):
            log = folder / "output.log"
            program = stack.enter_context(
                programs.running(
                    command.argv, log, ready=lambda: _answers(address), env=command.env, start_seconds=start_seconds
                )
            )
        usage = Usage(program.pid, core)
        yield Running(name, command.version, program.pid, address, usage, lambda: _in_flight(command))


def _answers(address: Address) -> bool:
    try:
        uvloop.run(load.one_answer(address, load.chat(200)))
    except (Failed, OSError, TimeoutError):
        return False
    return True


def _in_flight(command: Command) -> int | None:
    if command.admin_socket is None:
        return None
    with socket.socket(socket.AF_UNIX) as admin:
        admin.settimeout(10)
        admin.connect(str(command.admin_socket))
        admin.sendall(b"GET /state HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: admin.recv(65536), b""))
    return int(json.loads(answer.partition(b"\r\n\r\n")[2])["in_flight"])
