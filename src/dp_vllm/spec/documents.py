"""DPModel objects as they stand in a YAML file, and what is wrong with them: the file, the line, the field. Pure.

The file may be one that `kubectl apply` takes: other objects beside the models are named, and left to it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from dp_vllm import names, spec
from dp_vllm.errors import BadSettings
from dp_vllm.spec import BadSpec, DPModelSpec, object_name, unknown

_VERSION: Final = f"{names.API_GROUP}/{names.API_VERSION}"
_FIELDS: Final = ("apiVersion", "kind", "metadata", "spec", "status")


@dataclass(frozen=True, slots=True)
class Document:
    """One DPModel."""

    where: str
    """For messages: `models.yaml:3`."""
    name: str
    spec: DPModelSpec
    given: Mapping[str, Any]
    """The spec as it was written, so that one sees what was left out."""


@dataclass(frozen=True, slots=True)
class Documents:
    """What a file holds."""

    models: tuple[Document, ...]
    others: tuple[str, ...]
    """The other objects: `ServiceMonitor chat`."""


def read(text: str, source: str) -> Documents:
    """The objects in a file called `source`. Raises BadSettings with the file, the line and the field."""
    models, others = [], []
    for node, body in _objects(text, source):
        kind, name = body.get("kind"), _metadata(body).get("name")
        if kind == names.KIND:
            models.append(_model(body, node, source))
        elif isinstance(kind, str) and "apiVersion" in body:
            others.append(f"{kind} {name}")
        else:
            raise BadSettings(
                f"{_at(source, node)}: this is no {names.KIND}; one begins with `apiVersion: {_VERSION}` and "
                f"`kind: {names.KIND}`, and `dp-vllm export MODEL` prints one"
            )
    return Documents(tuple(models), tuple(others))


def _objects(text: str, source: str) -> Iterator[tuple[yaml.MappingNode, dict[Any, Any]]]:
    try:
        loader = yaml.SafeLoader(text)
        while loader.check_node():
            node = loader.get_node()
            assert node is not None
            if node.tag == "tag:yaml.org,2002:null":
                continue  # nothing between two ---
            if not isinstance(node, yaml.MappingNode):
                raise BadSettings(f"{_at(source, node)}: an object is a mapping, like `kind: {names.KIND}`")
            _demand_once(node, source)
            body = loader.construct_document(node)
            if _is_list(body):
                yield from _items(node, body, source)
            else:
                yield node, body
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise BadSettings(f"{source}:{line}: this is not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise BadSettings(f"{source}: this is not YAML: {' '.join(str(error).split())}") from error


def _is_list(body: Mapping[Any, Any]) -> bool:
    """Whether it is what `kubectl get` prints for several objects (`List`), or what the API answers (`DPModelList`)."""
    return body.get("kind") in ("List", f"{names.KIND}List") and "items" in body


def _items(
    node: yaml.MappingNode, body: dict[Any, Any], source: str
) -> Iterator[tuple[yaml.MappingNode, dict[Any, Any]]]:
    """The objects of a list."""
    items = next(value for key, value in node.value if key.value == "items")
    if not isinstance(items, yaml.SequenceNode):
        raise BadSettings(f"{_at(source, node, 'items')}: items: a {body['kind']} has a list of objects there")
    if not items.value:
        raise BadSettings(f"{_at(source, node, 'items')}: this {body['kind']} is empty: `kubectl get` found no object")
    for item, one in zip(items.value, body["items"], strict=True):
        if not isinstance(item, yaml.MappingNode):
            raise BadSettings(f"{_at(source, item)}: an object is a mapping, like `kind: {names.KIND}`")
        if _is_list(one):
            raise BadSettings(f"{_at(source, item)}: a list within a list is not read; give the inner one alone")
        yield item, one


def _demand_once(node: yaml.Node, source: str) -> None:
    """Raise BadSettings for a key that is there twice, of which YAML would take the last."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _demand_once(item, source)
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                raise BadSettings(f"{_at(source, key)}: {name} is there twice; keep one of them")
            seen.add(name)
            _demand_once(value, source)


def _model(body: dict[Any, Any], node: yaml.MappingNode, source: str) -> Document:
    name, given = _metadata(body).get("name"), body.get("spec")
    if body.get("apiVersion") != _VERSION:
        found = body.get("apiVersion")
        raise BadSettings(f"{_at(source, node, 'apiVersion')}: apiVersion: {found!r} is not known; write {_VERSION}")
    for field in body:
        if field not in _FIELDS:
            raise BadSettings(
                f"{_at(source, node, str(field))}: {field} is not a field of an object; does it belong to spec?"
            )
    if name is None:
        raise BadSettings(f"{_at(source, node, 'metadata')}: metadata.name is missing; give the model a name")
    if not object_name.fits(name):
        raise BadSettings(f"{_at(source, node, 'metadata.name')}: {name!r} is not allowed; {object_name.MUST}")
    try:
        read = spec.read(given)
    except BadSpec as error:
        raise BadSettings(_told(str(error), node, source, name)) from error
    assert isinstance(given, dict)
    if problem := unknown.problem(given):
        raise BadSettings(_told(problem, node, source, name))
    return Document(_at(source, node), name, read, given)


def _metadata(body: Mapping[Any, Any]) -> Mapping[Any, Any]:
    metadata = body.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _told(problem: str, node: yaml.Node, source: str, name: str) -> str:
    """The problem, which begins with its field, with where that stands."""
    field = re.match(r"[\w.\[\]]+", problem)
    return f"{_at(source, node, field[0].rstrip('.') if field else '')}: {name}: {problem}"


def _at(source: str, node: yaml.Node, field: str = "") -> str:
    """The file and the line of a field, or of the nearest part above it that is there."""
    line = node.start_mark.line + 1
    for step in re.findall(r"[^.\[\]]+", field):
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == step), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and step.isdigit() and int(step) < len(node.value):
            node = node.value[int(step)]
            line = node.start_mark.line + 1
        else:
            break
    return f"{source}:{line}"
