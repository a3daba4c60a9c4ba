"""Reads the files of `--file`, and looks whether what they name is on this machine."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dp_vllm.errors import BadSettings
from dp_vllm.local.models import LEFT_OUT, Model
from dp_vllm.spec import documents
from dp_vllm.spec.documents import Document

STANDARD_INPUT: Final = Path("-")


@dataclass(frozen=True, slots=True)
class Held:
    """What the files hold."""

    models: tuple[Document, ...]
    left_out: tuple[str, ...]
    """Sentences on the objects that are none."""


def read(paths: Sequence[Path]) -> Held:
    """All models of the files. Raises BadSettings with the file, the line and the field."""
    models: list[Document] = []
    left_out: list[str] = []
    for path in paths:
        source = "the standard input" if path == STANDARD_INPUT else str(path)
        found = documents.read(_text(path, source), source)
        if not found.models:
            raise BadSettings(f"--file: there is no DPModel in {source}; `dp-vllm export MODEL` prints one")
        models += found.models
        left_out += [f"{source}: {LEFT_OUT}: {other}" for other in found.others]
    return Held(tuple(models), tuple(left_out))


def demand_there(models: Iterable[Model]) -> None:
    """Raise BadSettings for a model that is a path, of a cluster's volume maybe, which this machine has not."""
    for model in models:
        if model.model.startswith("/") and not Path(model.model).exists():
            raise BadSettings(
                f"spec.model: {model.model} is not on this machine; name the hub's model, or where its files are here"
            )


def _text(path: Path, source: str) -> str:
    try:
        return sys.stdin.read() if path == STANDARD_INPUT else path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadSettings(f"--file: {source} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadSettings(f"--file: {source} is not text in UTF-8") from error
