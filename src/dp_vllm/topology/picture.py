"""A report as an SVG picture: the matrix sorted by groups, each group a framed block, coloured by its links."""

from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Final
from xml.sax.saxutils import escape

from dp_vllm.topology.group import Group
from dp_vllm.topology.link import Kind, Link
from dp_vllm.topology.report import Report

_WIDTH: Final = 48
_HEIGHT: Final = 28
_LABEL: Final = 58
_GAP: Final = 48
_TOP: Final = 92
_COLOURS: Final = {
    Kind.NV: ("#1b7837", "white"),
    Kind.PIX: ("#2166ac", "white"),
    Kind.PXB: ("#67a9cf", "black"),
    Kind.PHB: ("#fee391", "black"),
    Kind.NODE: ("#fdae61", "black"),
    Kind.SYS: ("#d6604d", "white"),
}
"""Of a cell and of its text; told apart also by those who do not see red and green."""
_FEWER: Final = ("#7fbf7b", "black")
"""Of fewer NVLinks than the most that two GPUs of the machine have."""
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


def picture(report: Report) -> str:
    """The SVG. Beside the chosen groups stand those of index order, where they differ."""
    count = len(report.matrix.gpus)
    numa = max((len(gpu.numa) for gpu in report.matrix.gpus), default=0)
    panel = _LABEL + count * _WIDTH + (8 * (numa + len("NUMA ")) if numa else 0)
    chosen = "As given" if report.given else "Chosen by links"
    panels = [(chosen, report.groups)] + ([] if report.same else [("In index order", report.by_index)])
    legend, legend_width = _legend(report)
    width = _GAP + max(len(panels) * (panel + _GAP), legend_width + _GAP, 10 * len(_title(report)) + _GAP)
    below = _TOP + _HEIGHT * (count + 1) + 30
    height = below + 20 * (len(report.groups) + 1) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(_GAP, 34, _title(report), size=18, weight="bold"),
    ]
    for number, (name, groups) in enumerate(panels):
        x = _GAP + number * (panel + _GAP)
        parts.append(_text(x, 62, f"{name}: slowest link {_slowest(report, groups)}", weight="bold"))
        parts += _matrix(report, groups, x)
        parts += _list(report, groups, x, below)
    parts.append(f'<g transform="translate({_GAP} {height - 30})">{legend}</g>')
    return "\n".join([*parts, "</svg>", ""])


def _title(report: Report) -> str:
    shape = report.shape
    stages = f" -pp {shape.stages}" if shape.stages > 1 else ""
    return f"{PurePath(report.source).name}: -dp {shape.copies} -tp {shape.width}{stages}"


def _slowest(report: Report, groups: Sequence[Group]) -> str:
    inside, whole = report.worst_in_stage(groups), report.worst(groups)
    return str(whole or "none") if inside in (None, whole) else f"{inside} inside a stage, {whole} beside"


def _matrix(report: Report, groups: Sequence[Group], x: int) -> Iterator[str]:
    order = [gpu for group in groups for gpu in group.gpus]
    order += [index for index in report.matrix.indexes if index not in order]
    matrix = report.matrix.of(order)
    together = report.pairs(groups)
    left, top = x + _LABEL, _TOP + _HEIGHT
    for place, index in enumerate(order):
        yield _text(left + (place + 0.5) * _WIDTH, top - 9, f"GPU{index}", anchor="middle")
        middle = top + (place + 0.5) * _HEIGHT + 5
        yield _text(left - 8, middle, f"GPU{index}", anchor="end")
        if matrix.gpus[place].numa:
            yield _text(left + len(order) * _WIDTH + 8, middle, f"NUMA {matrix.gpus[place].numa}", fill="#555555")
    most = max((link for row in matrix.links for link in row if link is not None), default=None)
    for row, links in enumerate(matrix.links):
        for column, link in enumerate(links):
            at = left + column * _WIDTH, top + row * _HEIGHT
            yield _cell(link, at, link == most, {order[row], order[column]} in together)
    start = 0
    for group in groups:
        yield _frame(left, top, start, len(group.gpus), 3)
        for stage in group.stages if len(group.stages) > 1 else ():
            yield _frame(left, top, start, len(stage), 1.5)
            start += len(stage)
        start += len(group.gpus) if len(group.stages) == 1 else 0


def _cell(link: Link | None, at: tuple[float, float], most: bool, together: bool) -> str:
    x, y = at
    box = f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" stroke="white"'
    if link is None:
        return f'{box} fill="#eeeeee"/>'
    fill, ink = _colours(link, most)
    text = _text(x + _WIDTH / 2, y + _HEIGHT / 2 + 5, str(link), anchor="middle", fill=ink if together else "#555555")
    return f'{box} fill="{fill}" fill-opacity="{1 if together else _PALE}"/>{text}'


def _colours(link: Link, most: bool) -> tuple[str, str]:
    return _FEWER if link.kind is Kind.NV and not most else _COLOURS[link.kind]


def _frame(left: float, top: float, start: int, size: int, width: float) -> str:
    return (
        f'<rect x="{left + start * _WIDTH}" y="{top + start * _HEIGHT}" width="{size * _WIDTH}" '
        f'height="{size * _HEIGHT}" fill="none" stroke="black" stroke-width="{width}"/>'
    )


def _list(report: Report, groups: Sequence[Group], x: int, y: int) -> Iterator[str]:
    for number, group in enumerate(groups):
        gpus = " | ".join(",".join(map(str, stage)) for stage in group.stages)
        link = report.matrix.worst(group.gpus)
        yield _text(x, y + 20 * number, f"replica {number}: GPU {gpus}" + (f", {link}" if link else ""))


def _legend(report: Report) -> tuple[str, int]:
    """What the colours mean, and how wide that is."""
    links = sorted({link for row in report.matrix.links for link in row if link is not None}, reverse=True)
    parts, x = [], 0
    for number, link in enumerate(links):
        fill, _ = _colours(link, number == 0)
        meaning = f"{link}: {_MEANINGS[link.kind]}"
        parts.append(
            f'<rect x="{x}" y="-12" width="14" height="14" fill="{fill}"/>{_text(x + 20, 0, meaning, size=12)}'
        )
        x += 20 + 7 * len(meaning) + 20
    return "".join(parts), x


def _text(
    x: float, y: float, text: str, *, size: int = 13, weight: str = "normal", anchor: str = "start", fill: str = "black"
) -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{fill}">'
        f"{escape(text)}</text>"
    )
