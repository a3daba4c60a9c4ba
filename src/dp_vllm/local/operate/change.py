"""`dp-vllm drain`, `restart` and `scale`: give an order, and show what becomes of it until it is carried out."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import click
from rich.console import Console

from dp_vllm.errors import BadSettings, UserError
from dp_vllm.local import runs, words
from dp_vllm.local.operate import lock, look, options, steps, watch
from dp_vllm.local.operate.look import Look
from dp_vllm.local.plan import Then
from dp_vllm.local.runs import Found
from dp_vllm.local.standing import ScaleOrder, StopOrder
from dp_vllm.number import Number
from dp_vllm.spec import MOST_REPLICAS

_DRAIN_SECONDS: Final = 300.0
_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_Command = Callable[..., Any]


class Interrupted(UserError):
    """Ctrl-C: the message says how the run is left."""

    exit_status = 130


def _timeout_option(command: _Command) -> _Command:
    text = "How long requests in flight may go on before their engine is ended all the same."
    option = click.option(
        "--timeout",
        metavar="SECONDS",
        type=Number(0, 1e7),
        default=_DRAIN_SECONDS,
        show_default=True,
        help=text,
    )
    return option(command)


@click.command(context_settings=_SETTINGS)
@click.argument("replicas", nargs=-1, required=True, metavar="REPLICA...")
@options.name_option
@_timeout_option
def drain(replicas: tuple[str, ...], name: str | None, timeout: float) -> int:
    """End replicas without failing a request, until `dp-vllm restart`.

    Nothing new is sent to them, what is in flight ends, then their engines end and stay down. Their GPUs are free then.
    """
    names = tuple(dict.fromkeys(replicas))
    with _changing(name) as (found, console):
        _stop(found, names, timeout, Then.STAY_DOWN)
        back = f"`dp-vllm restart {' '.join(names)}` brings {'it' if len(names) == 1 else 'them'} back"
        with _left_as(f"the drain of {words.replicas(names)} goes on; {back}"):
            _demand_none(watch.through(found, names, steps.rest, console), "did not end")
        if not look.at(found).serving:
            console.print(f"no replica serves now; {back}", soft_wrap=True)
    return 0


@click.command(context_settings=_SETTINGS)
@click.argument("replicas", nargs=-1, metavar="[REPLICA...]")
@click.option("--rolling", is_flag=True, help="One after another: the next when the one before serves again.")
@click.option("--all", "every", is_flag=True, help="All at once; nothing is served until one is back.")
@options.name_option
@_timeout_option
def restart(replicas: tuple[str, ...], rolling: bool, every: bool, name: str | None, timeout: float) -> int:
    """Restart replicas without failing a request, or bring back those that were drained.

    Nothing new is sent to a replica, what is in flight ends, then its engine ends and another one is started. Several
    that are named are restarted at once, or one after another with --rolling, which takes all if none is named, except
    those that were drained.
    """
    if every and (rolling or replicas):
        raise BadSettings("--all restarts all replicas at once; leave out the others, or --all")
    if not (every or rolling or replicas):
        raise BadSettings(
            "say which replicas: their numbers, --rolling for all one after another, or --all for all at once"
        )
    with _changing(name) as (found, console):
        now = look.at(found)
        if rolling:
            _roll(found, steps.order_of_roll(now, _known(now, replicas)), timeout, console)
        else:
            staying = tuple(one.name for one in now.run.replicas if one.ordered is not Then.LEAVE)
            names = _known(now, replicas) or staying
            with _left_as(f"the restart of {words.replicas(names)} goes on"):
                _demand_none(_restart(found, now, names, timeout, console), "did not come back")
    return 0


@click.command(context_settings=_SETTINGS)
@click.option(
    "-dp",
    "--data-parallel-size",
    "count",
    type=click.IntRange(max=MOST_REPLICAS),
    required=True,
    metavar="N",
    help="So many replicas.",
)
@click.option(
    "--model", default="", metavar="NAME", help="Of which model, by the name that clients use, if several are served."
)
@options.name_option
@_timeout_option
def scale(count: int, model: str, name: str | None, timeout: float) -> int:
    """Have more replicas, on free GPUs of those that the run may use, or fewer: the last ones drain and leave."""
    with _changing(name) as (found, console):
        before = {one.name for one in look.at(found).run.replicas}
        now = look.order(found, "/scale", ScaleOrder(count, timeout, model))
        replicas = [one for one in now.run.replicas if not model or model in one.models]
        leaving = [one.name for one in now.run.replicas if one.ordered is Then.LEAVE]
        new = [one.name for one in now.run.replicas if one.name not in before]
        with _left_as(f"{words.replicas(leaving)} will leave") if leaving else contextlib.nullcontext():
            _demand_none(watch.through(found, leaving, steps.leave, console), "did not leave")
        fewer = len(replicas) - len(leaving) - len(new)
        of_model = f" --model {model}" if model else ""
        back = f"`dp-vllm scale -dp {max(1, fewer)}{of_model}` takes what came away again"
        with _left_as(f"the start of {words.replicas(new)} goes on; {back}"):
            starts = {one.name: one.starts for one in now.run.replicas}
            problems = watch.through(found, new, lambda look, name: steps.come(look, name, starts[name]), console)
            _demand_none(problems, "did not come up", back)
        console.print(f"{count} {'replica' if count == 1 else 'replicas'}")
    return 0


@contextlib.contextmanager
def _changing(name: str | None) -> Iterator[tuple[Found, Console]]:
    """The run that is meant, which no other command changes meanwhile, and where to say how far it is."""
    found = runs.the_one(name, os.environ)
    runs.demand_there(found)
    with lock.held(found):
        yield found, Console(highlight=False)


@contextlib.contextmanager
def _left_as(how: str) -> Iterator[None]:
    """Say how the run is left if the user does not want to wait any longer."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"not waiting any longer: {how}; `dp-vllm status` shows it") from None


def _known(now: Look, names: Sequence[str]) -> tuple[str, ...]:
    """The names without those that are there twice. Raises UserError for one that no replica has."""
    there = [one.name for one in now.run.replicas]
    unknown = next((name for name in names if name not in there), None)
    if unknown is not None:
        raise UserError(f"there is no replica {unknown}; there are {', '.join(there)}")
    return tuple(dict.fromkeys(names))


def _stop(found: Found, names: tuple[str, ...], timeout: float, then: Then) -> None:
    look.order(found, "/stop", StopOrder(names, timeout, then))


def _restart(found: Found, now: Look, names: tuple[str, ...], timeout: float, console: Console) -> dict[str, str]:
    """Restart these at once; what is wrong with those that did not come back."""
    starts = {one.name: one.starts for one in now.run.replicas}
    if now.serving and set(now.serving) <= set(names):
        console.print("no other replica serves, so clients get 503 until one is back", soft_wrap=True)
    _stop(found, names, timeout, Then.START)
    return watch.through(found, names, lambda look, name: steps.come(look, name, starts[name]), console)


def _roll(found: Found, names: tuple[str, ...], timeout: float, console: Console) -> None:
    for place, name in enumerate(names):
        rest = names[place + 1 :]
        untouched = f"not restarted: {words.replicas(rest)}" if rest else "it was the last one"
        now = look.at(found)
        why_not = steps.objection(now, name)
        if why_not:
            raise UserError(f"the roll stops before replica {name}: {why_not}; `dp-vllm status` says what is wrong")
        with _left_as(f"the restart of replica {name} goes on; {untouched}"):
            problems = _restart(found, now, (name,), timeout, console)
        if problems:
            raise UserError(f"the roll stops, replica {name} did not come back: {problems[name]}; {untouched}")


def _demand_none(problems: dict[str, str], what: str, hint: str = "") -> None:
    if problems:
        told = "; ".join(f"replica {name} {what}: {why}" for name, why in problems.items())
        raise UserError(f"{told}; {hint}" if hint else told)
