"""`dp-vllm status`: how the runs of this user stand, once or renewed every second."""

import os
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from dp_vllm.errors import BadSettings, UserError
from dp_vllm.local import runs
from dp_vllm.local.operate import look, options, report, table
from dp_vllm.local.operate.report import Report, Run

_RENEW_SECONDS: Final = 1.0
_RATE_SECONDS: Final = 10.0
"""Over how long tokens per second are counted; the gateway reads the engines' counts every five seconds."""
_NOTHING: Final = "There is no run of yours; start one with `dp-vllm serve`."


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("run", required=False, metavar="[NAME]")
@options.name_option
@click.option("--once", is_flag=True, help="Print it once, also on a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON once.")
def main(run: str | None, name: str | None, once: bool, as_json: bool) -> int:
    """How your runs stand, or the one called NAME: its endpoint, and each replica with its GPUs and its load.

    On a terminal it is renewed until Ctrl-C. The exit status is 1 if one of the runs answers no requests now.
    """
    if run is not None and name is not None and run != name:
        raise BadSettings(f"NAME is {run} and --name is {name}; give one of them")
    wanted = run if run is not None else name
    console = Console(highlight=False)
    if console.is_terminal and not once and not as_json:
        return _watch(wanted, console)
    seen = _seen(wanted)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(Report(seen))))
    else:
        _print(seen, console)
    return 0 if all(one.state in report.SERVING for one in seen) else 1


def _seen(name: str | None) -> tuple[Run, ...]:
    found = runs.every(os.environ) if name is None else [runs.the_one(name, os.environ)]
    return tuple(_run(one) for one in found)


def _run(found: runs.Found) -> Run:
    try:
        return report.of_run(found, look.at(found), look.counts(found))
    except UserError as error:
        return report.without_answer(found, str(error))


def _print(seen: Sequence[Run], console: Console) -> None:
    if not seen:
        console.print(_NOTHING)
        return
    if not console.is_terminal:
        console.width = 1_000_000  # for a program or a file a line stays a line
    with console.capture() as capture:
        console.print(table.of_runs(seen, {}))
    lines = [line.rstrip() for line in capture.get().rstrip("\n").splitlines()]
    click.echo("\n".join(lines))


def _watch(name: str | None, console: Console) -> int:
    rates = Rates()
    seen = _seen(name)
    with Live(console=console, screen=False, auto_refresh=False) as live:
        try:
            while True:
                rates.add(seen, time.monotonic())
                live.update(table.of_runs(seen, rates.now()) if seen else Text(_NOTHING), refresh=True)
                time.sleep(_RENEW_SECONDS)
                seen = _seen(name)
        except KeyboardInterrupt:
            return 0


class Rates:
    """What was counted at the last looks."""

    def __init__(self) -> None:
        self._looks: defaultdict[tuple[str, str], deque[tuple[float, int]]] = defaultdict(deque)

    def add(self, seen: Sequence[Run], now: float) -> None:
        """What a look at this time found."""
        for run in seen:
            for one in run.replicas:
                looks = self._looks[run.name, one.name]
                if looks and one.generated_tokens < looks[-1][1]:
                    looks.clear()  # another life of the engine counts from 0
                looks.append((now, one.generated_tokens))
                while looks[0][0] < now - _RATE_SECONDS:
                    looks.popleft()

    def now(self) -> dict[tuple[str, str], float]:
        """Tokens per second."""
        return {
            key: (looks[-1][1] - looks[0][1]) / (looks[-1][0] - looks[0][0])
            for key, looks in self._looks.items()
            if looks[-1][0] - looks[0][0] >= _RATE_SECONDS / 2
        }
