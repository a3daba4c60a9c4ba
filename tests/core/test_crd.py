"""The custom resource definition: of the kind that Kubernetes takes, and for people to read."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
import yaml
from msgspec import Meta

from dp_vllm.crd import as_yaml, custom_resource_definition
from dp_vllm.crd.structural import Rule, Types
from dp_vllm.spec.fields import listed_by, text

Schema = dict[str, Any]
UNKNOWN = "x-kubernetes-preserve-unknown-fields"


def schema_of_the_object() -> Schema:
    (version,) = custom_resource_definition()["spec"]["versions"]
    schema: Schema = version["schema"]["openAPIV3Schema"]
    return schema


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every schema within a schema, with its path."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from nodes(field, f"{path}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if key in schema:
            yield from nodes(schema[key], path + mark)


NODES = dict(nodes(schema_of_the_object()))
FIELDS = {path: node for path, node in NODES.items() if path.rpartition(".")[2].isalnum() and path != ".metadata"}


@pytest.mark.parametrize("path", NODES)
def test_a_schema_is_structural(path: str) -> None:
    node = NODES[path]

    assert not node.keys() & {"$ref", "$defs", "title", "anyOf", "oneOf", "allOf", "x-allowed"}
    assert node.get("type") in {"object", "array", "string", "integer", "boolean"} or node["x-kubernetes-int-or-string"]
    assert node.get("additionalProperties") is not False
    assert not ("properties" in node and "additionalProperties" in node)
    assert ("items" in node) == (node.get("type") == "array")


@pytest.mark.parametrize("path", FIELDS)
def test_a_field_is_described(path: str) -> None:
    description = FIELDS[path]["description"]

    assert description[0].isupper() or description.startswith("-")
    assert description.endswith((".", "...")), description


@pytest.mark.parametrize("path", [path for path, node in NODES.items() if node.get("type") == "array"])
def test_a_list_says_how_it_is_merged_and_how_long_it_may_be(path: str) -> None:
    node = NODES[path]

    assert node["x-kubernetes-list-type"] in ("atomic", "map")
    assert node["maxItems"]
    assert set(node.get("x-kubernetes-list-map-keys", ())) <= set(node["items"].get("required", ()))


@pytest.mark.parametrize("path", [path for path, node in NODES.items() if node.get("type") == "string"])
def test_a_text_has_a_limit(path: str) -> None:
    node = NODES[path]

    assert "maxLength" in node or "enum" in node or "format" in node or path in (".apiVersion", ".kind") or "{}" in path


def test_only_what_is_passed_on_is_untyped() -> None:
    untyped = {path for path, node in NODES.items() if UNKNOWN in node}

    assert untyped == {".spec.engine.env[].valueFrom", ".spec.template.spec"}


def test_a_rule_says_what_to_do() -> None:
    rules = [rule for node in NODES.values() for rule in node.get("x-kubernetes-validations", ())]

    assert len(rules) > 30
    assert all(len(rule["message"]) > 20 for rule in rules)


def test_a_message_is_not_said_twice_of_a_field() -> None:
    for path, node in NODES.items():
        messages = [rule["message"] for rule in node.get("x-kubernetes-validations", ())]
        assert len(set(messages)) == len(messages), path


def test_it_fits_into_the_annotation_of_a_client_side_apply() -> None:
    assert len(as_yaml()) < 200_000


def test_the_command_prints_it_without_a_kubernetes_client() -> None:
    program = Path(sys.executable).with_name("dp-vllm")
    printed = subprocess.run([program, "crd"], capture_output=True, text=True, timeout=30, check=True).stdout
    without = (
        "import sys; sys.modules.update(dict.fromkeys(('kubernetes', 'kopf', 'aiohttp')));"
        "from dp_vllm import crd; print(crd.as_yaml(), end='')"
    )
    alone = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, timeout=30, check=True)

    assert yaml.safe_load(printed) == custom_resource_definition()
    assert printed == alone.stdout == as_yaml()
    assert "&id" not in printed  # an alias is YAML that few people read


def test_the_columns_tell_what_is_wrong() -> None:
    (version,) = custom_resource_definition()["spec"]["versions"]
    columns = {column["name"].upper(): column for column in version["additionalPrinterColumns"]}

    assert list(columns) == ["MODEL", "READY", "DESIRED", "TP", "PP", "STATUS", "AGE", "MESSAGE"]
    assert [name for name, column in columns.items() if column.get("priority")] == ["MESSAGE"]
    for column in columns.values():
        path = column["jsonPath"].partition("[")[0]
        assert path in NODES or path == ".metadata.creationTimestamp"


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    """An inner part."""

    amount: Annotated[int, Meta(gt=0, lt=5)] | Annotated[str, text(r"^[0-9]+\Z", "digits", 8)] = 1
    user: Annotated[int, Meta(gt=0, lt=5)] | None = 2


class Outer(msgspec.Struct, rename="camel"):
    """An outer part."""

    code: Annotated[str, text(r"^[a-z]+\Z", "small letters", 8)]
    plain: Annotated[str, Meta(pattern=r"^a\Z")] = "a"
    many: Annotated[tuple[Inner, ...], Meta(max_length=3, extra_json_schema=listed_by("amount"))] = ()
    one_part: Annotated[Inner, Meta(description="One.")] = msgspec.field(default_factory=Inner)
    free: dict[str, Any] = {}


def test_types_become_what_kubernetes_takes() -> None:
    inner = {
        "type": "object",
        "properties": {
            "amount": {
                "x-kubernetes-int-or-string": True,
                "default": 1,
                "maxLength": 8,
                "x-kubernetes-validations": [
                    {
                        "rule": "type(self) == int ? self >= 0 : self.matches(r'^[0-9]+$')",
                        "message": "must be digits",
                    }
                ],
            },
            "user": {
                "type": "integer",
                "nullable": True,
                "default": 2,
                "minimum": 0,
                "exclusiveMinimum": True,
                "maximum": 5,
                "exclusiveMaximum": True,
            },
        },
        "x-kubernetes-validations": [{"rule": "true", "message": "is", "fieldPath": ".user"}],
    }

    assert Types({"Inner": [Rule("true", "is", ".user")], "Outer.plain": [Rule("1", "2")]}).schema(Outer) == {
        "description": "An outer part.",
        "type": "object",
        "required": ["code"],
        "properties": {
            "code": {
                "type": "string",
                "maxLength": 8,
                "x-kubernetes-validations": [
                    {"rule": "self.matches(r'^[a-z]+$')", "message": "must be small letters"},
                ],
            },
            "plain": {
                "type": "string",
                "pattern": "^a$",
                "default": "a",
                "x-kubernetes-validations": [{"rule": "1", "message": "2"}],
            },
            "many": {
                "type": "array",
                "maxItems": 3,
                "items": {**inner, "description": "An inner part."},
                **listed_by("amount"),
            },
            "onePart": {**inner, "description": "One."},
            "free": {"type": "object", UNKNOWN: True, "default": {}},
        },
    }
