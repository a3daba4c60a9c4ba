"""What is in the files of examples/."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from models import model

from dp_vllm import names
from dp_vllm_operator.model import Model

FOLDER: Final = Path(__file__).parents[2] / "examples"
COMPOSE: Final = FOLDER / "compose.yaml"
"""Docker's; the others are Kubernetes'."""
FILES: Final = tuple(sorted(set(FOLDER.glob("*.yaml")) - {COMPOSE}))


@dataclass(frozen=True, slots=True)
class Document:
    """One object in a file."""

    file: Path
    text: str
    """As it stands there: the API server sees what YAML cannot say twice."""
    body: dict[str, Any]

    @property
    def kind(self) -> tuple[str, str]:
        return self.body["apiVersion"], self.body["kind"]

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    def __str__(self) -> str:
        return f"{self.file.name}: {self.body['kind']} {self.name}"

    def model(self, namespace: str = "ns") -> Model:
        """The operator's view of a DPModel."""
        metadata = self.body["metadata"]
        return model(name=self.name, namespace=namespace, annotations=metadata.get("annotations"), **self.body["spec"])


def documents(file: Path) -> Iterator[Document]:
    for text in file.read_text().split("\n---\n"):
        yield Document(file, text, yaml.safe_load(text))


def head(file: Path) -> str:
    """The comment at the head of a file, without the signs."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), file.read_text().splitlines())
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)


ALL: Final = tuple(document for file in FILES for document in documents(file))
MODELS: Final = tuple(one for one in ALL if one.kind == (f"{names.API_GROUP}/{names.API_VERSION}", names.KIND))


def of_kind(kind: str) -> list[Document]:
    return [one for one in ALL if one.body["kind"] == kind]


def beside(document: Document) -> dict[str, Document]:
    """The DPModels in the same file, by name."""
    return {one.name: one for one in MODELS if one.file == document.file}
