"""Turns a msgspec type into the kind of JSON schema that a custom resource may have.

Kubernetes takes no `$ref`, no null types, no numbers as exclusive bounds, and knows nothing of `title`. A pattern
becomes a rule with a message, since the API server's words for it are the pattern alone. Pure; knows no resource.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from dp_vllm.spec.fields import ALLOWED

Schema = dict[str, Any]

_RULES: Final = "x-kubernetes-validations"
_UNTYPED: Final = "x-kubernetes-preserve-unknown-fields"
_INT_OR_STRING: Final = "x-kubernetes-int-or-string"
_FIRST: Final = ("description", "type", "nullable", "enum", "default", "required")
"""What a reader wants to see first."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule in CEL, and what the API server says where it is broken."""

    rule: str
    message: str
    field: str = ""
    """Path of the field to name, from where the rule stands: `.size`."""

    @property
    def json(self) -> dict[str, str]:
        return {"rule": self.rule, "message": self.message} | ({"fieldPath": self.field} if self.field else {})


@dataclass(frozen=True, slots=True)
class Types:
    """Makes schemas of types, with the CEL rules of their parts."""

    rules: Mapping[str, Sequence[Rule]] = field(default_factory=dict)
    """By the name of a part (`Cache`) or of one of its fields (`Engine.args`)."""

    def schema(self, of: type) -> Schema:
        made = msgspec.json.schema(of)
        return self._inline(made, made.get("$defs", {}))

    def _inline(self, node: Schema, parts: Mapping[str, Schema], field: str = "") -> Schema:
        part = node.get("$ref", "").rpartition("/")[2]
        whole = (parts[part] if part else {}) | {key: value for key, value in node.items() if key[0] != "$"}
        whole.pop("title", None)
        whole = _with_nullable(whole)
        for key in ("items", "additionalProperties"):
            if whole.get(key):
                whole[key] = self._inline(whole[key], parts)
        if fields := whole.get("properties"):
            whole["properties"] = {n: self._inline(of, parts, f"{part}.{n}") for n, of in fields.items()}
        rules = [*_rules_of_text(whole), *self.rules.get(part, ()), *self.rules.get(field, ())]
        return _in_order(_plain(whole) | ({_RULES: [rule.json for rule in rules]} if rules else {}))


def _with_nullable(node: Schema) -> Schema:
    """Without `anyOf`: of a type and null, or of whole numbers and text."""
    if "anyOf" not in node:
        return node
    node = dict(node)
    kinds = {kind["type"]: kind for kind in node.pop("anyOf")}
    if kinds.pop("null", None):
        node["nullable"] = True
    if len(kinds) == 1:
        return {**node, **next(iter(kinds.values()))}
    assert set(kinds) == {"integer", "string"}, kinds
    return {**node, **kinds["string"], "type": _INT_OR_STRING}


def _rules_of_text(node: Schema) -> list[Rule]:
    if ALLOWED not in node:
        return []
    matches = f"self.matches(r'{_pattern(node)}')"
    if node["type"] == _INT_OR_STRING:
        matches = f"type(self) == int ? self >= 0 : {matches}"
    return [Rule(matches, f"must be {node[ALLOWED]}")]


def _pattern(node: Schema) -> str:
    """As Kubernetes reads it. In Python `$` also matches before a last line break."""
    return str(node["pattern"]).replace(r"\Z", "$")


def _plain(node: Schema) -> Schema:
    """Without what only we understand, and with what only Kubernetes does."""
    node = {key: value for key, value in node.items() if not _says_nothing(key, value)} | _bounds(node)
    if "pattern" in node:
        node["pattern"] = _pattern(node)
    if node.pop(ALLOWED, ""):
        del node["pattern"]  # its rule says the same
    if node.get("type") == _INT_OR_STRING:
        del node["type"]
        node[_INT_OR_STRING] = True
    if "enum" in node:
        node["type"] = "string"
    if node.get("type") == "object" and not node.keys() & {"properties", "additionalProperties"}:
        node[_UNTYPED] = True
    return node


def _says_nothing(key: str, value: object) -> bool:
    return (key in ("required", "default") and isinstance(value, list | tuple) and not value) or (
        key == "additionalProperties" and value is False
    )


def _bounds(node: Schema) -> Schema:
    """Bounds that are not allowed themselves: a number and a yes, instead of another kind of number."""
    made: Schema = {}
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if exclusive in node:
            made |= {bound: node[exclusive], exclusive: True}
    return made


def _in_order(node: Schema) -> Schema:
    return {key: node[key] for key in _FIRST if key in node} | node
