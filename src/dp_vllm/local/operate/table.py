"""How runs stand, as tables. Pure: reports in, what `rich` draws out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dp_vllm.endpoints import State
from dp_vllm.local.operate.report import Replica, Run
from dp_vllm.local.plan import Then

_COLOURS: Final = {"ready": "green", "partly": "yellow", "starting": "yellow"}
_TITLES: Final = ("replica", "state", "GPUs", "link", "for", "starts", "in flight", "waiting", "requests", "tokens/s")
_LEFT: Final = frozenset({"replica", "state", "GPUs", "link", "last end"})
_AFTERWARDS: Final = {Then.STAY_DOWN: "stays down", Then.START: "starts again", Then.LEAVE: "leaves"}

Rates = Mapping[tuple[str, str], float]
"""Tokens per second by run and replica, as far as they are known."""


def of_runs(runs: Sequence[Run], rates: Rates) -> RenderableType:
    """All runs, one below the other."""
    return Group(*(part for run in runs for part in _of_run(run, rates)))


def _of_run(run: Run, rates: Rates) -> Iterator[RenderableType]:
    colour = _COLOURS.get(run.state, "red")
    told = [run.model, f"engine {run.engine}" if run.engine else None, run.endpoint]
    told += [f"up {duration(run.seconds)}" if run.seconds is not None else None]
    told += [f"process {run.supervisor_pid}" if run.supervisor_pid and run.state != "gone" else None]
    yield Text.assemble((run.name, "bold"), "  ", (run.state, colour), "  ", "  ".join(filter(None, told)))
    if run.problem:
        yield Text(f"  {run.problem}", colour)
    if run.gateway is not None:
        yield Text(f"  gateway {_gateway(run)}")
    if run.replicas:
        yield _replicas(run, rates)
    for one in run.replicas:
        if not one.serves and one.ordered is None and one.last_end is not None and one.last_end.folder:
            yield Text(f"  replica {one.name}: its last end is written down in {one.last_end.folder}")
    yield Text(f"  logs {run.logs}", "dim")
    yield Text()


def _gateway(run: Run) -> str:
    gateway = run.gateway
    assert gateway is not None
    told = [gateway.state.value]
    told += [f"{run.in_flight} in flight"] if run.in_flight is not None else []
    told += [f"{run.queued} wait for room"] if run.queued else []
    told += [f"{gateway.starts} starts, the last end: {gateway.last_end}"] if gateway.last_end else []
    return ", ".join(told)


def _replicas(run: Run, rates: Rates) -> Table:
    """Columns in which nothing stands are left out."""
    rows = [_row(one, rates.get((run.name, one.name))) for one in run.replicas]
    titles = (*_TITLES, "last end")
    shown = [place for place in range(len(titles)) if any(row[place] for row in rows)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    for place in shown:
        left = titles[place] in _LEFT
        table.add_column(titles[place], justify="left" if left else "right", no_wrap=titles[place] != "last end")
    for one, row in zip(run.replicas, rows, strict=True):
        style = "green" if one.serves else "yellow" if one.state in (State.STARTING, State.DRAINING) else ""
        style = "red" if one.state is State.DOWN and one.ordered is None else style
        cells = [Text(row[place], style if titles[place] == "state" else "") for place in shown]
        table.add_row("", *cells)
    return table


def _row(one: Replica, rate: float | None) -> tuple[str, ...]:
    seconds = one.ready_seconds if one.ready_seconds is not None else one.starting_seconds
    end = one.last_end
    return (
        one.name,
        state(one),
        ",".join(one.gpus),
        one.worst_link or "",
        duration(seconds) if seconds is not None else "",
        str(one.starts),
        str(one.in_flight) if one.in_flight or one.serves else "",
        str(one.waiting) if one.waiting else "",
        f"{one.requests:,}" if one.requests else "",
        f"{rate:,.0f}" if rate is not None else "",
        f"{duration(end.seconds_ago)} ago: {end}" if end and one.ordered is None else "",
    )


def state(one: Replica) -> str:
    """In a few words."""
    if one.state is State.STARTING:
        return f"starting: {one.message}" if one.message else "starting"
    if one.state is State.DRAINING:
        if one.ordered is None:
            return "hangs, is being ended"
        left = f", {one.drain_seconds:.0f} s left" if one.in_flight and one.drain_seconds is not None else ""
        return f"draining{left}, then {_AFTERWARDS[one.ordered]}"
    if one.state is State.READY:
        return "ready" if one.serves else "ready, not used yet"
    if one.ordered is not None:
        return "drained" if one.ordered is Then.STAY_DOWN else f"down, {_AFTERWARDS[one.ordered]}"
    return "down for good" if one.stays_down else "down, starts again"


def duration(seconds: float) -> str:
    """Two units at most: `12s`, `3m 4s`, `5h 2m`, `2d 1h`."""
    whole = int(seconds)
    for size, unit, part, part_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // part}{part_unit}"
    return f"{whole}s"
