"""Reads the text of `nvidia-smi topo -m`, also as it comes out of an issue, a chat or a log.

Seen in the wild: a header in ANSI colours, tabs made into blanks, cells glued together (`NODENODE`) or cut (`PH0-115`),
columns of network cards, affinities that are empty because a container hides the CPUs.
"""

import re
from dataclasses import dataclass
from typing import Final

from dp_vllm.topology.link import CODE, Link, link
from dp_vllm.topology.matrix import Gpu, Matrix

_ANSI: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_NAME: Final = re.compile(r"GPU(\d+)")
_ROW: Final = re.compile(rf"\s*GPU(\d+)\s(?=.*\b(?:X|{CODE.pattern})\b)")
_CELL: Final = re.compile(rf"\s*(X|{CODE.pattern}|(?P<odd>[^\s\d]\S*))")
"""A cell of a GPU's column."""
_FURTHER: Final = re.compile(rf"(?:\s*(?:X|{CODE.pattern}))*(?:\s*[A-Z]+(?=\d))?")
"""The cells of network cards, and one that is cut and glued to the CPUs behind it."""
_LISTS: Final = re.compile(r"[0-9][0-9,-]*")
_COLUMNS: Final = ("CPU Affinity", "NUMA Affinity", "GPU NUMA ID")


class Unreadable(ValueError):
    """The text holds no matrix; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Read:
    """What was found in a text."""

    matrix: Matrix
    doubts: tuple[str, ...] = ()
    """Sentences about what did not fit together."""


@dataclass(frozen=True, slots=True)
class _Row:
    cells: tuple[str, ...]
    """Of the GPUs' columns alone."""
    rest: str
    """What stands behind all links, with the whitespace before it."""
    at: int
    """Where `rest` begins in its line."""


def parse(text: str) -> Read:
    """The matrix in a text; what is before and behind it does not matter. Raises Unreadable if there is none."""
    lines = [line.rstrip() for line in _ANSI.sub("", text).splitlines()]
    start = _header(lines)
    header = lines[start]
    names = tuple(map(int, _NAME.findall(header)))
    if len(set(names)) < len(names):
        raise Unreadable(f"its columns name a GPU twice: {header.strip()!r}")
    rows = _rows(lines[start + 1 :], names)
    cells = {index: row.cells for index, row in rows.items()}
    doubts: list[str] = []
    links = tuple(tuple(_joined(cells, names, one, other, doubts) for other in names) for one in names)
    return Read(Matrix(tuple(_gpu(index, rows.get(index), header) for index in names), links), tuple(doubts))


def _header(lines: list[str]) -> int:
    """Where the columns are named: last before the first row, as there may be words about GPU0 above the table."""
    for number, line in enumerate(lines):
        if not _ROW.match(line):
            continue
        above = [before for before in range(number) if _NAME.search(lines[before])]
        if not above:
            raise Unreadable(f"no line above {line.strip()!r} names the columns GPU0, GPU1, ...")
        return above[-1]
    raise Unreadable("it has no row of a GPU as `nvidia-smi topo -m` prints them, like 'GPU0 X NV12 SYS'")


def _rows(lines: list[str], names: tuple[int, ...]) -> dict[int, _Row]:
    """The rows of the GPUs, up to the next matrix."""
    rows: dict[int, _Row] = {}
    for line in lines:
        found = _ROW.match(line)
        if found is None:
            continue
        index = int(found[1])
        if index in rows:
            break
        if index in names:
            rows[index] = _row(line, found.end(1), len(names))
    return rows


def _row(line: str, at: int, count: int) -> _Row:
    cells: list[str] = []
    while len(cells) < count and (cell := _CELL.match(line, at)):
        cells.append(cell[1])
        at = cell.end()
        if cell["odd"]:  # perhaps two that are glued, so that nothing behind it can be counted
            return _Row(tuple(cells), "", at)
    further = _FURTHER.match(line, at)
    assert further is not None
    return _Row(tuple(cells), line[further.end() :], further.end())


def _joined(
    cells: dict[int, tuple[str, ...]], names: tuple[int, ...], one: int, other: int, doubts: list[str]
) -> Link | None:
    """What joins two GPUs: the table says it twice, and one of the two may be damaged."""
    if one == other:
        return None
    there, back = _said(cells, names, one, other), _said(cells, names, other, one)
    if there is None and back is None:
        raise Unreadable(f"it does not say what joins GPU{one} and GPU{other}{_instead(cells, names, one, other)}")
    if there is None or back is None:
        return there or back
    if there != back and one < other:
        doubts.append(f"GPU{one} and GPU{other} are joined by {there} in one row and by {back} in the other")
    return min(there, back)


def _said(cells: dict[int, tuple[str, ...]], names: tuple[int, ...], one: int, other: int) -> Link | None:
    """What the row of `one` says; nothing if the row is shifted, which shows where it should say X."""
    row, own, place = cells.get(one, ()), names.index(one), names.index(other)
    if len(row) <= max(own, place) or row[own] != "X":
        return None
    try:
        return link(row[place])
    except ValueError:
        return None


def _instead(cells: dict[int, tuple[str, ...]], names: tuple[int, ...], one: int, other: int) -> str:
    if one not in cells:
        return f" (it has no row of GPU{one})"
    place = names.index(other)
    return f" (it has {cells[one][place]!r} there)" if place < len(cells[one]) else ""


def _gpu(index: int, row: _Row | None, header: str) -> Gpu:
    said = _affinities(row, header) if row else {}
    cpus, numa = (said.get(column, "") for column in _COLUMNS[:2])
    return Gpu(index, *(value if _LISTS.fullmatch(value) else "" for value in (numa, cpus)))


def _affinities(row: _Row, header: str) -> dict[str, str]:
    """What stands below each of the last columns; nothing where that cannot be told."""
    columns = [column for column in _COLUMNS if column in header]
    if "\t" in row.rest:
        return dict(zip(columns, map(str.strip, row.rest.lstrip(" ").removeprefix("\t").split("\t")), strict=False))
    values = list(re.finditer(r"\S+", row.rest))
    if len(values) == len(columns):
        return {column: value[0] for column, value in zip(columns, values, strict=True)}
    # Some are empty: only the place in the line says which.
    starts = {header.index(column): column for column in columns}
    return {starts[at]: value[0] for value in values if (at := row.at + value.start()) in starts}
