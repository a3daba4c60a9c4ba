"""`dp-vllm explain`: asks a gateway on its admin socket why the last requests went where they went.

It must not know what the answer means; that is `why`'s.
"""

import os
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import click
import msgspec
from rich.console import Console

from dp_vllm import names
from dp_vllm.errors import BadSettings, UserError
from dp_vllm.local import runs, why
from dp_vllm.local.operate import options, unix_http
from dp_vllm.local.operate.unix_http import Silent
from dp_vllm.local.why import Decision


@dataclass(frozen=True, slots=True)
class Answer:
    """What the gateway answers to `GET /decisions`."""

    decisions: tuple[Decision, ...]
    """The oldest first."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@options.name_option
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
    """Where the gateway of the run answers, or without a name that of this container, or of the only run."""
    if name is None and (given := os.environ.get(names.ADMIN_SOCKET_VARIABLE)):
        return Path(given)
    run = runs.the_one(name, os.environ, ", or give --admin-socket PATH of a gateway that runs alone")
    runs.demand_there(run)
    return run.directory.admin_socket


def _asked(path: Path) -> Answer:
    try:
        answer = unix_http.ask(path, "/decisions")
    except Silent as silent:
        raise UserError(
            f"no gateway answers on {path} ({silent}); look whether it runs, and with this --admin-socket"
        ) from silent
    if answer.status == HTTPStatus.NOT_FOUND:
        raise UserError(f"the gateway on {path} does not tell its decisions: it is an older one; start it anew")
    try:
        return msgspec.json.decode(answer.body, type=Answer)
    except msgspec.DecodeError as error:
        raise UserError(
            f"what answers on {path} is no gateway of this version: status {answer.status}, {error}"
        ) from error


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
