"""Where `dp-vllm replay` has its trace from, and how long a block is in it."""

from __future__ import annotations

import contextlib
import gzip
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import msgspec

from dp_vllm.errors import UserError
from dp_vllm.replay import trace
from dp_vllm.replay.trace import Request

STANDARD_INPUT: Final = "-"


def read(name: str, block_tokens: int | None) -> tuple[list[Request], int]:
    """The requests of a trace, and its block length: the one that is given, else what its first line says, else
    Mooncake's. Raises UserError, which names the line and the field."""
    with _file(name) as path:
        length = block_tokens or _said(path) or trace.BLOCK_TOKENS
        return trace.read(path, block_tokens=length), length


class _Said(msgspec.Struct):
    block_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None


def _said(path: Path) -> int | None:
    """What the first line says of blocks. A file that cannot be read is left to the reader of traces to complain of."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return msgspec.json.decode(file.readline(), type=_Said).block_tokens
    except msgspec.ValidationError as error:
        raise UserError(f"{path}, line 1: {error}") from error
    except (msgspec.DecodeError, OSError, EOFError, zlib.error):
        return None


@contextlib.contextmanager
def _file(name: str) -> Iterator[Path]:
    """A trace is looked at twice, so standard input becomes a file."""
    if name != STANDARD_INPUT:
        yield Path(name)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace")
        path.write_bytes(sys.stdin.buffer.read())
        try:
            yield path
        except UserError as error:
            raise UserError(str(error).replace(str(path), "standard input")) from error
