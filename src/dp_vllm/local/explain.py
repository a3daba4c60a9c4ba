"""`dp-vllm explain`: asks a gateway on its admin socket why the last requests went where they went.

It must not know what the answer means; that is `why`'s.
"""

import http.client
import os
import socket
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console

from dp_vllm import names
from dp_vllm.errors import BadSettings, UserError
from dp_vllm.local import why
from dp_vllm.local.run_directory import run_directory
from dp_vllm.local.why import Decision

ANSWER_SECONDS: Final = 5.0
"""How long a gateway may take to answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the gateway answers to `GET /decisions`."""

    decisions: tuple[Decision, ...]
    """The oldest first."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--name", metavar="RUN", help=f"The run's name, by default its port.  [default: {names.DEFAULT_PORT}]")
@click.option("--admin-socket", type=click.Path(path_type=Path), help="That of a gateway alone, instead of --name.")
@click.option("--last", type=click.IntRange(1), default=10, show_default=True, help="So many decisions at most.")
@click.option("--id", "request_id", metavar="ID", help="Only this request's: the answer's header x-request-id.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(name: str | None, admin_socket: Path | None, last: int, request_id: str | None, as_json: bool) -> int:
    """Why the last requests went where they went, the newest at the end.

    Each has a line for every replica that could be chosen, as the gateway saw it at that moment: how long the prompt
    would wait, how much of it is cached there, how many sequences were in flight. * is where it went.
    """
    if name is not None and admin_socket is not None:
        raise BadSettings("--name and --admin-socket both say which gateway; give one of them")
    found = _asked(admin_socket or _socket_of(name)).decisions
    if request_id is not None:
        found = _of_request(found, request_id)
    _show(found[-last:], as_json)
    return 0


def _socket_of(name: str | None) -> Path:
    """Where the gateway of the run answers, or without a name that of this container, or of the default port's run.

    Raises UserError, which names the runs that there are, if it is none of them.
    """
    if name is None and (given := os.environ.get(names.ADMIN_SOCKET_VARIABLE)):
        return Path(given)
    run = str(names.DEFAULT_PORT) if name is None else name
    directory = run_directory(run, os.environ)
    if directory.path.is_dir():
        return directory.admin_socket
    there = sorted(path.parent.name for path in directory.path.parent.glob(f"*/{directory.admin_socket.name}"))
    hint = f"give --name {' or '.join(there)}" if there else "start one with `dp-vllm serve`"
    raise UserError(
        f"there is no run {run} in {directory.path.parent}; {hint}, "
        "or give --admin-socket PATH of a gateway that runs alone"
    )


def _asked(path: Path) -> Answer:
    connection = _Connection(path)
    try:
        connection.request("GET", "/decisions")
        answer = connection.getresponse()
        status, body = answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise UserError(
            f"no gateway answers on {path} ({reason}); look whether it runs, and with this --admin-socket"
        ) from error
    finally:
        connection.close()
    if status == HTTPStatus.NOT_FOUND:
        raise UserError(f"the gateway on {path} does not tell its decisions: it is an older one; start it anew")
    try:
        return msgspec.json.decode(body, type=Answer)
    except msgspec.DecodeError as error:
        raise UserError(f"what answers on {path} is no gateway of this version: status {status}, {error}") from error


class _Connection(http.client.HTTPConnection):
    """HTTP on a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(ANSWER_SECONDS)
        self.sock.connect(os.fspath(self._path))


def _of_request(found: tuple[Decision, ...], request_id: str) -> tuple[Decision, ...]:
    of_request = tuple(decision for decision in found if decision.id == request_id)
    if not of_request:
        raise UserError(
            f"--id {request_id}: none of the {len(found)} decisions that the gateway still knows is about that "
            "request; it is older, or no replica was chosen for it. Without --id the last ones are shown with their ids"
        )
    return of_request


def _show(decisions: tuple[Decision, ...], as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(Answer(decisions))))
        return
    if not decisions:
        click.echo("No request has been sent to a replica yet.")
    console = Console(highlight=False)
    for line in why.lines(decisions):
        console.print(line, soft_wrap=True)
