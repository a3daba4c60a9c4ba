"""A report as coloured lines for a terminal: the matrix, the groups, and what index order would have given."""

from collections.abc import Iterator, Sequence
from typing import Final

from rich.text import Text

from dp_vllm.topology.group import Group
from dp_vllm.topology.link import Kind, Link
from dp_vllm.topology.report import Report

STYLES: Final = {
    Kind.NV: "green",
    Kind.PIX: "cyan",
    Kind.PXB: "cyan",
    Kind.PHB: "yellow",
    Kind.NODE: "yellow",
    Kind.SYS: "red",
}
_LEGEND: Final = (
    "NV# that many NVLinks > PIX one PCIe switch > PXB several > PHB host bridge > NODE one socket > SYS two"
)

Row = Sequence[Text]


def lines(report: Report) -> Iterator[Text]:
    """The lines of the table, without line ends."""
    yield from _aligned(_matrix(report))
    yield Text(_LEGEND, "dim")
    yield Text()
    yield from _aligned(_groups(report))
    yield Text()
    yield Text.assemble(*_verdict(report))
    if report.left_over:
        yield Text(f"Not used: GPU {_listed(report.left_over)}")


def _matrix(report: Report) -> Iterator[Row]:
    matrix = report.matrix
    columns = [("NUMA", [gpu.numa for gpu in matrix.gpus]), ("CPUs", [gpu.cpus for gpu in matrix.gpus])]
    known = [(title, values) for title, values in columns if any(values)]
    together = report.pairs(report.groups)
    yield [Text(), *(Text(str(gpu), "bold") for gpu in matrix.gpus), *(Text(title, "bold") for title, _ in known)]
    for place, (gpu, row) in enumerate(zip(matrix.gpus, matrix.links, strict=True)):
        cells = (_cell(link, {gpu.index, index} in together) for index, link in zip(matrix.indexes, row, strict=True))
        yield [Text(str(gpu), "bold"), *cells, *(Text(values[place] or "?", "dim") for _, values in known)]


def _cell(link: Link | None, together: bool) -> Text:
    if link is None:
        return Text("-", "dim")
    return Text(str(link), f"{STYLES[link.kind]}{' reverse' if together else ''}")


def _groups(report: Report) -> Iterator[Row]:
    titles = ["replica", "GPUs", "slowest link"]
    if not report.same:
        titles += ["", "in index order", "slowest link"]
    yield [Text(title, "bold") for title in titles]
    for number, (group, other) in enumerate(zip(report.groups, report.by_index, strict=True)):
        row = [Text(str(number)), *_group(report, group)]
        if not report.same:
            row += [Text(), *_group(report, other)]
        yield row


def _group(report: Report, group: Group) -> Row:
    gpus = " | ".join(map(_listed, group.stages))
    links = [report.matrix.worst(stage) for stage in group.stages]
    if len(group.stages) == 1:
        return [Text(gpus), _link(links[0])]
    inside = Text(" | ").join(map(_link, links))
    return [Text(gpus), inside if any(links) else _link(report.matrix.worst(group.gpus))]


def _link(link: Link | None) -> Text:
    return Text("-", "dim") if link is None else Text(str(link), STYLES[link.kind])


def _verdict(report: Report) -> Iterator[Text | str]:
    chosen, by_index = _slowest(report, report.groups), _slowest(report, report.by_index)
    if not chosen:
        yield "One GPU a replica: links do not matter."
        return
    if len(chosen) == 1:
        yield from ("The slowest link inside a replica is ", chosen[0], "; ")
    else:
        yield from ("The slowest link is ", chosen[0], " inside a stage and ", chosen[1], " inside a replica; ")
    if report.same:
        yield "index order makes the same groups."
    elif chosen == by_index:
        yield "in index order too" + ("." if report.given else ", with slower links or more sockets beside it.")
    else:
        yield "in index order it would be "
        yield Text(" and ").join(by_index)
        yield "."


def _slowest(report: Report, groups: Sequence[Group]) -> list[Text]:
    """Inside any stage, if there are several of several GPUs, and inside any replica."""
    found = [report.worst(groups)]
    if report.shape.stages > 1 and report.shape.width > 1:
        found.insert(0, report.worst_in_stage(groups))
    return [_link(link) for link in found if link is not None]


def _listed(gpus: Sequence[int]) -> str:
    return ",".join(map(str, gpus))


def _aligned(rows: Iterator[Row]) -> Iterator[Text]:
    """Each row as a line, its cells below each other."""
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        line = Text()
        for cell, width in zip(row, widths, strict=True):
            line.append(cell).append(" " * (width - len(cell) + 2))
        line.rstrip()
        yield line
