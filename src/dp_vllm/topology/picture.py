"""A report as a picture: the matrix sorted by groups, each group a framed block, coloured by its links. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Final

from dp_vllm.topology.drawing import Mark, Picture, Rectangle, Text
from dp_vllm.topology.group import Group
from dp_vllm.topology.link import Kind, Link
from dp_vllm.topology.report import Report

_WIDTH: Final = 48
_HEIGHT: Final = 28
_LABEL: Final = 58
_GAP: Final = 48
_TOP: Final = 76
_COLOURS: Final = {
    Kind.NV: ("#1b7837", "#ffffff"),
    Kind.PIX: ("#2166ac", "#ffffff"),
    Kind.PXB: ("#67a9cf", "#000000"),
    Kind.PHB: ("#fee391", "#000000"),
    Kind.NODE: ("#fdae61", "#000000"),
    Kind.SYS: ("#d6604d", "#ffffff"),
}
"""Of a cell and of its text; told apart also by those who do not see red and green."""
_FEWER: Final = ("#7fbf7b", "#000000")
"""Of fewer NVLinks than the most that two GPUs of the machine have."""
_INK, _FAINT, _EMPTY, _WHITE = "#000000", "#555555", "#eeeeee", "#ffffff"
_PALE: Final = 0.18
"""How much of its colour is left to a link that no group uses."""
_MEANINGS: Final = {
    Kind.NV: "NVLink",
    Kind.PIX: "one PCIe switch",
    Kind.PXB: "several PCIe switches",
    Kind.PHB: "one host bridge",
    Kind.NODE: "one socket",
    Kind.SYS: "between sockets",
}


def picture(report: Report) -> Picture:
    """Beside the chosen groups stand those of index order, where they differ."""
    chosen = "As given" if report.given else "Chosen by links"
    panels = [(chosen, report.groups)] + ([] if report.same else [("In index order", report.by_index)])
    named = [(f"{name}: slowest link {_slowest(report, groups)}", groups) for name, groups in panels]
    panel = max(_matrix_width(report), *(8 * len(heading) for heading, _ in named))
    legend, legend_width = _legend(report)
    width = _GAP + max(len(panels) * (panel + _GAP), legend_width + _GAP, 10 * len(_title(report)) + _GAP)
    below = _TOP + _HEIGHT * (len(report.matrix.gpus) + 1) + 30
    height = below + 20 * (len(report.groups) + 1) + 40
    marks: list[Mark] = [Text(_GAP, 34, _title(report), size=18, bold=True)]
    for number, (heading, groups) in enumerate(named):
        x = _GAP + number * (panel + _GAP)
        marks.append(Text(x, 62, heading, bold=True))
        marks += _matrix(report, groups, x)
        marks += _list(report, groups, x, below)
    marks += (replace(mark, x=mark.x + _GAP, y=mark.y + height - 30) for mark in legend)
    return Picture(width, height, tuple(marks))


def _matrix_width(report: Report) -> int:
    numa = max((len(gpu.numa) for gpu in report.matrix.gpus), default=0)
    return _LABEL + len(report.matrix.gpus) * _WIDTH + (8 * (numa + len("NUMA ")) if numa else 0)


def _title(report: Report) -> str:
    shape = report.shape
    stages = f" -pp {shape.stages}" if shape.stages > 1 else ""
    return f"{PurePath(report.source).name}: -dp {shape.copies} -tp {shape.width}{stages}"


def _slowest(report: Report, groups: Sequence[Group]) -> str:
    inside, whole = report.worst_in_stage(groups), report.worst(groups)
    return str(whole or "none") if inside in (None, whole) else f"{inside} inside a stage, {whole} beside"


def _matrix(report: Report, groups: Sequence[Group], x: int) -> Iterator[Mark]:
    order = [gpu for group in groups for gpu in group.gpus]
    order += [index for index in report.matrix.indexes if index not in order]
    matrix = report.matrix.of(order)
    together = report.pairs(groups)
    left, top = x + _LABEL, _TOP + _HEIGHT
    for place, index in enumerate(order):
        yield Text(left + (place + 0.5) * _WIDTH, top - 9, f"GPU{index}", anchor="middle")
        middle = top + (place + 0.5) * _HEIGHT + 5
        yield Text(left - 8, middle, f"GPU{index}", anchor="end")
        if matrix.gpus[place].numa:
            yield Text(left + len(order) * _WIDTH + 8, middle, f"NUMA {matrix.gpus[place].numa}", fill=_FAINT)
    most = max((link for row in matrix.links for link in row if link is not None), default=None)
    for row, links in enumerate(matrix.links):
        for column, link in enumerate(links):
            at = left + column * _WIDTH, top + row * _HEIGHT
            yield from _cell(link, at, link == most, {order[row], order[column]} in together)
    start = 0
    for group in groups:
        yield _frame(left, top, start, len(group.gpus), 3)
        for stage in group.stages if len(group.stages) > 1 else ():
            yield _frame(left, top, start, len(stage), 1.5)
            start += len(stage)
        start += len(group.gpus) if len(group.stages) == 1 else 0


def _cell(link: Link | None, at: tuple[int, int], most: bool, together: bool) -> Iterator[Mark]:
    x, y = at
    if link is None:
        yield Rectangle(x, y, _WIDTH, _HEIGHT, fill=_EMPTY, stroke=_WHITE)
        return
    fill, ink = _colours(link, most)
    yield Rectangle(x, y, _WIDTH, _HEIGHT, fill=fill if together else _paled(fill), stroke=_WHITE)
    at_middle = x + _WIDTH / 2, y + _HEIGHT / 2 + 5
    yield Text(*at_middle, str(link), anchor="middle", fill=ink if together else _FAINT)


def _colours(link: Link, most: bool) -> tuple[str, str]:
    return _FEWER if link.kind is Kind.NV and not most else _COLOURS[link.kind]


def _paled(colour: str) -> str:
    parts = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(255 - _PALE * (255 - part)):02x}" for part in parts)


def _frame(left: int, top: int, start: int, size: int, width: float) -> Rectangle:
    x, y = left + start * _WIDTH, top + start * _HEIGHT
    return Rectangle(x, y, size * _WIDTH, size * _HEIGHT, stroke=_INK, stroke_width=width)


def _list(report: Report, groups: Sequence[Group], x: int, y: int) -> Iterator[Mark]:
    for number, group in enumerate(groups):
        gpus = " | ".join(",".join(map(str, stage)) for stage in group.stages)
        link = report.matrix.worst(group.gpus)
        yield Text(x, y + 20 * number, f"replica {number}: GPU {gpus}" + (f", {link}" if link else ""))


def _legend(report: Report) -> tuple[list[Mark], int]:
    """What the colours mean, in one line, and how wide that is."""
    links = sorted({link for row in report.matrix.links for link in row if link is not None}, reverse=True)
    marks: list[Mark] = []
    x = 0
    for number, link in enumerate(links):
        fill, _ = _colours(link, number == 0)
        meaning = f"{link}: {_MEANINGS[link.kind]}"
        marks += [Rectangle(x, -12, 14, 14, fill=fill), Text(x + 20, 0, meaning, size=12)]
        x += 20 + 7 * len(meaning) + 20
    return marks, x
