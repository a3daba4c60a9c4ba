"""`dp-vllm batch IN OUT`: reads the command line, and puts the parts together."""

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from dp_vllm import api_keys, names
from dp_vllm.batch import answers, endpoint, own, progress, requests
from dp_vllm.batch.answers import Answers
from dp_vllm.batch.endpoint import Client, Endpoint
from dp_vllm.batch.run import Run
from dp_vllm.errors import BadSettings, DpVllmError, UserError

PRIORITY: Final = 10
"""Behind what people wait for, which has 0."""
TERMINATED: Final = 143
"""The exit status after SIGTERM, as a shell has it."""


@dataclass(frozen=True, slots=True)
class _Given:
    source: Path
    target: Path
    serve: tuple[str, ...]
    base_url: str | None
    key: str
    concurrency: int | None
    priority: int
    timeout_seconds: float
    retry_seconds: float
    retry_failed: bool


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("source", metavar="IN.jsonl", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("target", metavar="OUT.jsonl", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("serve", metavar="[-- MODEL FLAG...]", nargs=-1)
@click.option("--base-url", metavar="URL", help="The endpoint.  [default: your only run, else port 8000 here]")
@click.option("--api-key", metavar="KEY", help=f"Its key.  [default: ${names.API_KEY_VARIABLE}, $OPENAI_API_KEY]")
@click.option(
    "--concurrency", type=click.IntRange(1, 65536), metavar="N", help="Requests at once.  [default: 256 a replica]"
)
@click.option(
    "--priority", type=int, default=PRIORITY, show_default=True, help="In the gateway's queue; lower goes first."
)
@click.option(
    "--timeout", type=click.FloatRange(1, 86400), default=3600, show_default=True, help="Seconds for one answer."
)
@click.option(
    "--retry-seconds",
    type=click.FloatRange(0, 86400),
    default=600,
    show_default=True,
    help="How long a request is tried again when the endpoint is busy, starts or is away.",
)
@click.option("--retry-failed", is_flag=True, help="Ask again what failed in an earlier run.")
def main(
    source: Path,
    target: Path,
    serve: tuple[str, ...],
    base_url: str | None,
    api_key: str | None,
    concurrency: int | None,
    priority: int,
    timeout: float,
    retry_seconds: float,
    retry_failed: bool,
) -> int:
    """Ask an endpoint everything in IN.jsonl, a file in OpenAI's batch format, and write the answers to OUT.jsonl.

    The same command again goes on where an earlier one ended or was killed: what is in OUT.jsonl is not asked again.
    Answers stand there in the order in which they came. With `-- MODEL FLAG...` an endpoint is started for the time of
    the batch, as by dp-vllm serve.

    Exit status: 0 if all answers are good, 1 if any failed.
    """
    if not source.is_file():
        raise BadSettings(
            f"{source} is no file: it is read twice, so that what is wrong is found before anything is sent"
        )
    if target.exists() and source.samefile(target):
        raise BadSettings(f"{source} is both the requests and the answers; name another file for these")
    if serve and base_url is not None:
        raise BadSettings("--base-url names an endpoint, and -- MODEL would start another; give one of them")
    key = "" if serve else _key(api_key)
    given = _Given(source, target, serve, base_url, key, concurrency, priority, timeout, retry_seconds, retry_failed)
    console = Console(stderr=True, highlight=False, markup=False)
    asked = requests.check(source)
    with answers.opened(target, retry_failed=retry_failed) as kept:
        strangers = len(kept.done - asked.keys())
        if strangers:
            raise UserError(f"{target} has {strangers} answers to requests that are not in {source}; name another file")
        total = len(asked)
        _say(console, _beginning(total, kept))
        status = _ask(given, kept, total, console) if len(kept.done) < total else 0
        _say(console, _end(total, kept))
        return status or int(kept.failed > 0)


def _key(given: str | None) -> str:
    """The key to send; empty for none. Raises BadSettings for a text that is no key."""
    if given is not None:
        try:
            return api_keys.checked(given)
        except ValueError as error:
            raise BadSettings(f"--api-key: {error}") from None
    for variable in (names.API_KEY_VARIABLE, "OPENAI_API_KEY"):
        if keys := api_keys.of_variable(os.environ, variable):
            return keys[0]
    return ""


def _ask(given: _Given, kept: Answers, total: int, console: Console) -> int:
    try:
        return asyncio.run(_run(given, kept, total, console))
    except BaseExceptionGroup as group:
        raise _first(group) from None
    except KeyboardInterrupt:
        _say(console, _end(total, kept))
        raise


async def _run(given: _Given, kept: Answers, total: int, console: Console) -> int:
    task = asyncio.current_task()
    assert task is not None
    terminated = asyncio.Event()

    def terminate() -> None:
        terminated.set()
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    rest = (one for one in requests.read(given.source) if requests.key(one.custom_id) not in kept.done)
    try:
        async with _endpoint(given) as there:
            at_once = min(given.concurrency or endpoint.EACH * there.replicas, total - len(kept.done))
            client = Client(there, connections=at_once, priority=given.priority, timeout_seconds=given.timeout_seconds)
            begin_seconds = given.retry_seconds if there.begin_seconds is None else there.begin_seconds
            with progress.shown(total, len(kept.done), console) as tell:
                async with client:
                    await Run(client, kept, rest, total, tell, given.retry_seconds).all(at_once, begin_seconds)
    except asyncio.CancelledError:
        if not terminated.is_set():
            raise  # Ctrl-C
        return TERMINATED
    return 0


@contextlib.asynccontextmanager
async def _endpoint(given: _Given) -> AsyncIterator[Endpoint]:
    if given.serve:
        replicas = own.replicas_of(given.serve)
        async with own.served(given.serve, replicas, given.target) as there:
            yield there
    elif given.base_url is not None:
        yield endpoint.named(given.base_url, given.key)
    else:
        yield endpoint.found(os.environ, given.key)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a person is told; a bug if there is one."""
    flat = list(_flat(group))
    return next(itertools.chain((one for one in flat if not isinstance(one, DpVllmError)), flat))


def _flat(error: BaseException) -> Sequence[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [one for inner in error.exceptions for one in _flat(inner)]


def _beginning(total: int, kept: Answers) -> str:
    repaired = f"; half a line at the end of {kept.path} was cut off" if kept.repaired else ""
    there = f", {len(kept.done):,} of them are answered in {kept.path}" if kept.done else ""
    return f"{_counted(total, 'request')}{there}{repaired}"


def _end(total: int, kept: Answers) -> str:
    left = total - len(kept.done)
    told = f"{_counted(len(kept.done), 'answer')} in {kept.path}, {kept.failed:,} of them failed"
    return told + (f"; {left:,} are left: the same command goes on" if left else "")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _say(console: Console, text: str) -> None:
    console.print(f"dp-vllm batch: {text}", soft_wrap=True)
