"""`dp-vllm topo`: which GPUs belong together, by the links between them, on this machine or on one that is pasted."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console

from dp_vllm.errors import BadSettings, UserError
from dp_vllm.topology import given, ids, machine, table
from dp_vllm.topology.drawing import Picture
from dp_vllm.topology.matrix import Matrix
from dp_vllm.topology.parse import Unreadable, parse
from dp_vllm.topology.picture import picture
from dp_vllm.topology.png import png
from dp_vllm.topology.report import Report, report, report_given
from dp_vllm.topology.shape import Shape, product
from dp_vllm.topology.svg import svg

_POSITIVE: Final = click.IntRange(min=1)
_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_PAINTERS: Final[Mapping[str, Callable[[Picture], bytes]]] = {".svg": svg, ".png": png}
_PASTE: Final = "what `nvidia-smi topo -m` prints anywhere can be given as FILE, or as -"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", required=False, metavar="[FILE|-]")
@click.option(
    "--data-parallel-size", "-dp", "copies", type=_POSITIVE, metavar="N", help="Replicas.  [default: all that fit]"
)
@click.option(
    "--tensor-parallel-size",
    "-tp",
    "width",
    type=_POSITIVE,
    metavar="N",
    help="GPUs that share each layer.  [default: 1]",
)
@click.option(
    "--pipeline-parallel-size", "-pp", "stages", type=_POSITIVE, metavar="N", help="Stages of a replica.  [default: 1]"
)
@click.option("--device-ids", metavar="0,1,3", help="Only these GPUs.  [default: all, of this machine the visible]")
@click.option("--gpu-groups", metavar="'0,1;2,3'", help="These groups instead of the best ones.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--picture",
    "file_of_picture",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.svg|FILE.png",
    help="Also draw a picture into this file.",
)
def topo(
    file: str | None,
    copies: int | None,
    width: int | None,
    stages: int | None,
    device_ids: str | None,
    gpu_groups: str | None,
    as_json: bool,
    file_of_picture: Path | None,
) -> int:
    """Group GPUs by the links between them.

    FILE holds what `nvidia-smi topo -m` printed, on any machine; `-` reads it from standard input. Without FILE this
    machine's driver is asked. Without -dp, -tp and -pp: pairs.
    """
    draw = _painter(file_of_picture) if file_of_picture is not None else None
    source, matrix, warnings = _of_machine(device_ids) if file is None else _from_text(file, device_ids)
    groups = _read_groups(gpu_groups) if gpu_groups is not None else None
    if groups is not None:
        found = _grouped(source, matrix, groups, copies, width, stages, warnings)
    else:
        found = report(source, matrix, _shape(source, matrix, copies, width, stages), warnings)
    if file_of_picture is not None and draw is not None:
        _write(file_of_picture, draw(picture(found)))
    _show(found, as_json)
    return 0


def _of_machine(device_ids: str | None) -> tuple[str, Matrix, tuple[str, ...]]:
    """What joins the GPUs of this machine, those that are named or else visible."""
    found = machine.ask(os.environ)
    if found.matrix is None:
        raise UserError(f"it is not known how this machine's GPUs are joined: {found.unjoined}; {_PASTE}")
    named, by = (device_ids, "--device-ids") if device_ids is not None else (os.environ.get(_VISIBLE), _VISIBLE)
    if named is None:
        return "this machine", found.matrix, ()
    try:
        indexes = [ids.index_of(word.strip(), found.devices) for word in named.split(",") if word.strip()]
    except ValueError as error:
        raise BadSettings(f"{by}: {error}") from error
    _demand_once(indexes, by, named)
    return "this machine", found.matrix.of(indexes), ()


def _from_text(file: str, device_ids: str | None) -> tuple[str, Matrix, tuple[str, ...]]:
    source = "standard input" if file == "-" else file
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UserError(f"{source}: it cannot be read ({error.strerror})") from error
    try:
        read = parse(content.decode(errors="replace"))
    except Unreadable as error:
        raise UserError(f"{source}: {error}") from error
    matrix = read.matrix if device_ids is None else _only(read.matrix, device_ids, source)
    return source, matrix, read.doubts


def _only(matrix: Matrix, device_ids: str, source: str) -> Matrix:
    words = [word.strip() for word in device_ids.split(",")]
    known = set(map(str, matrix.indexes))
    for word in words:
        if word not in known:
            raise BadSettings(f"--device-ids: there is no GPU {word!r}: {source} has {_listed(matrix.indexes)}")
    _demand_once([int(word) for word in words], "--device-ids", device_ids)
    return matrix.of(map(int, words))


def _demand_once(indexes: Sequence[int], by: str, named: str) -> None:
    for index in indexes:
        if indexes.count(index) > 1:
            raise BadSettings(f"{by}: GPU {index} is named twice in {named!r}")


def _read_groups(text: str) -> given.Groups:
    try:
        return given.read(text)
    except ValueError as error:
        raise BadSettings(f"--gpu-groups: {text!r} is not allowed; {error}") from error


def _grouped(
    source: str,
    matrix: Matrix,
    groups: given.Groups,
    copies: int | None,
    width: int | None,
    stages: int | None,
    warnings: tuple[str, ...],
) -> Report:
    size = len(groups[0])
    stages = stages or 1
    shape = Shape(copies or len(groups), width or max(1, size // stages), stages)
    why_not = given.objection(groups, shape.copies, shape.group, tuple(map(str, matrix.indexes)), source)
    if why_not:
        raise BadSettings(f"--gpu-groups: {why_not}")
    return report_given(source, matrix, shape, [int(gpu) for group in groups for gpu in group], warnings)


def _shape(source: str, matrix: Matrix, copies: int | None, width: int | None, stages: int | None) -> Shape:
    """The shape that was asked for; nothing of it given, pairs."""
    count = len(matrix.gpus)
    if copies is None and width is None and stages is None:
        width = min(2, count)
    width, stages = width or 1, stages or 1
    shape = Shape(copies or max(1, count // (width * stages)), width, stages)
    if shape.gpus > count:
        factors = {"dp": shape.copies, "tp": shape.width, "pp": shape.stages}
        raise UserError(f"needs {product(factors)} GPUs, {source} has {count} ({_listed(matrix.indexes)})")
    return shape


def _painter(path: Path) -> Callable[[Picture], bytes]:
    """What makes the content of a file of that name."""
    if path.suffix.lower() not in _PAINTERS:
        raise BadSettings(f"--picture: {str(path)!r} is not allowed; allowed are names that end with .svg or .png")
    return _PAINTERS[path.suffix.lower()]


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UserError(f"--picture: {path} cannot be written ({error.strerror})") from error


def _show(found: Report, as_json: bool) -> None:
    for warning in found.warnings:
        click.echo(f"dp-vllm: warning: {warning}", err=True)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found.content())))
        return
    console = Console(highlight=False)
    for line in table.lines(found):
        console.print(line, soft_wrap=True)


def _listed(indexes: Sequence[int]) -> str:
    return ",".join(map(str, indexes))
