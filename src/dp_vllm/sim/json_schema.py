"""A value that a JSON Schema allows, the same for the same schema and seed; optional properties are there too.

What is not read (`not`, `if`, `patternProperties` ...) is refused where it could make the value wrong. Recursion ends
where the schema lets it: behind some depth only what is required is made, and lists get their least length.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote

import xxhash

from dp_vllm.sim import json_leaves
from dp_vllm.sim.errors import Refusal, bad_request
from dp_vllm.sim.json_leaves import TEXT

_DEEP: Final = 5
"""Levels from which on only what is required is made."""
_MANY: Final = 300
"""Values after which the same holds on every level."""
_DEEPEST: Final = 64
_MOST_ITEMS: Final = 1000
_MOST_VALUES: Final = 5000
_REFUSED: Final = ("not", "if", "dependentSchemas", "dependentRequired", "contains", "propertyNames")
_TYPES: Final = ("object", "array", "string", "number", "integer", "boolean", "null")
_LEAST_FIRST: Final = ("null", "boolean", "integer", "number", "string", "array", "object")


def value_for(schema: Any, seed: int = 0) -> Any:
    """A value that the schema allows. Raises Refusal for a schema that is wrong or not simulated."""
    if _nesting_exceeds(schema, _DEEPEST):
        raise bad_request(
            f"The JSON schema is nested too deeply: objects and arrays may nest at most {_DEEPEST} levels"
        )
    try:
        return _Maker(schema, seed).make(schema, 0)
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, RecursionError) as error:
        raise bad_request(f"The JSON schema is not valid: {error}") from error


def arguments_for(parameters: Any, seed: int = 0) -> dict[str, Any]:
    """Arguments of a tool whose parameters this schema describes; without one there are none. Raises Refusal."""
    if parameters in (None, {}, True):
        return {}
    value = value_for(parameters, seed)
    if not isinstance(value, dict):
        raise bad_request("The parameters of a tool must be a JSON schema of an object.", "tools")
    return value


class _Maker:
    """Makes one value; counts what it made so that no schema is too expensive."""

    def __init__(self, root: Any, seed: int) -> None:
        self._root = root
        self._seed = seed
        self._made = 0

    def make(self, schema: Any, depth: int) -> Any:
        self._made += 1
        if self._made > _MOST_VALUES or depth > _DEEPEST:
            raise bad_request("The JSON schema needs a value that is too large to be simulated.")
        if schema is True:
            return TEXT
        if not isinstance(schema, dict):
            raise bad_request(f"Grammar error: schema must be object or boolean, not {schema!r:.100}")
        schema = self._merged(schema, 0)
        for name in _REFUSED:
            if name in schema:
                raise bad_request(f"JSON schema: {name!r} is not simulated.")
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._one_of(schema["enum"])
        for name in ("anyOf", "oneOf"):
            if name in schema:
                return self._alternative(schema, name, depth)
        return self._typed(schema, self._type(schema, depth), depth)

    def _is_deep(self, depth: int) -> bool:
        return depth >= _DEEP or self._made > _MANY

    def _one_of(self, values: Any) -> Any:
        if not isinstance(values, list) or not values:
            raise bad_request("JSON schema: enum must be a list that is not empty.")
        return values[xxhash.xxh3_64_intdigest(b"", self._seed + self._made) % len(values)]

    def _alternative(self, schema: dict[str, Any], name: str, depth: int) -> Any:
        """The first alternative that can be made; deep within the value the smallest one comes first."""
        options, rest = schema[name], {key: value for key, value in schema.items() if key != name}
        if not isinstance(options, list) or not options:
            raise bad_request(f"JSON schema: {name} must be a list that is not empty.")
        ordered = sorted(options, key=self._size) if self._is_deep(depth) else options
        failure: Refusal | None = None
        for option in ordered:
            try:
                return self.make(_both(rest, option) if rest else option, depth)
            except Refusal as refusal:
                failure = failure or refusal
        raise failure or bad_request(f"JSON schema: {name} allows nothing.")

    def _size(self, option: Any) -> int:
        if not isinstance(option, dict) or "const" in option or "enum" in option:
            return 0
        kind = option.get("type")
        return _LEAST_FIRST.index(kind) if kind in _LEAST_FIRST else len(_LEAST_FIRST)

    def _merged(self, schema: dict[str, Any], count: int) -> dict[str, Any]:
        """The schema with its references and `allOf` resolved."""
        while "$ref" in schema or "allOf" in schema:
            count += 1
            if count > _DEEPEST:
                raise bad_request("JSON schema: a $ref leads to itself.")
            rest = {name: value for name, value in schema.items() if name not in ("$ref", "allOf")}
            parts = [self._referred(schema["$ref"])] if "$ref" in schema else []
            parts += schema.get("allOf", [])
            for part in parts:
                rest = _both(rest, self._merged(part, count) if isinstance(part, dict) else part)
            schema = rest
        return schema

    def _referred(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise bad_request(f"JSON schema: $ref {reference!r:.100} is not within the schema.")
        found = self._root
        for step in reference[1:].strip("/").split("/") if reference.strip("#/") else []:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                raise bad_request(f"JSON schema: $ref {reference!r:.100} leads nowhere.")
        return found

    def _type(self, schema: dict[str, Any], depth: int) -> str:
        kind = schema.get("type")
        kinds = kind if isinstance(kind, list) else [kind]
        for one in kinds:
            if one is not None and one not in _TYPES:
                raise bad_request(f"Grammar error: Invalid type: {one}")
        if kind is None or not kinds:
            return _implied(schema)
        return str(min(kinds, key=_LEAST_FIRST.index) if self._is_deep(depth) else kinds[0])

    def _typed(self, schema: dict[str, Any], kind: str, depth: int) -> Any:
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        if kind == "string":
            return json_leaves.string(schema)
        if kind in ("integer", "number"):
            return json_leaves.number(schema, whole=kind == "integer")
        return None if kind == "null" else self._one_of([True, False])

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise bad_request("JSON schema: properties must be an object and required a list.")
        made = {}
        for name, inner in properties.items():
            if name in required or (inner is not False and not self._is_deep(depth)):
                made[name] = self._property(inner, depth, needed=name in required)
        made = {name: value for name, value in made.items() if value is not _MISSING}
        more = schema.get("additionalProperties", True)
        missing = [name for name in required if name not in made]
        if missing and more is False:
            raise bad_request(f"JSON schema: required {missing[0]!r} is no property.")
        for name in missing:
            made[str(name)] = self.make(more, depth + 1)
        least = json_leaves.count(schema, "minProperties", _MOST_ITEMS)
        for place in range(least - len(made)):
            if more is False:
                raise bad_request("JSON schema: minProperties is more than there are properties.")
            made[f"{TEXT}{place + 1}"] = self.make(more, depth + 1)
        return made

    def _property(self, schema: Any, depth: int, *, needed: bool) -> Any:
        """The property's value; one that is not needed is left out if it cannot be made."""
        try:
            return self.make(schema, depth + 1)
        except Refusal:
            if needed:
                raise
            return _MISSING

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        first, rest = schema.get("prefixItems", []), schema.get("items", True)
        if isinstance(rest, list):
            first, rest = rest, schema.get("additionalItems", True)
        least, most = (
            json_leaves.count(schema, "minItems", _MOST_ITEMS),
            json_leaves.count({"maxItems": _MOST_ITEMS} | schema, "maxItems", None),
        )
        wanted = max(least, len(first))
        if rest is not False and not wanted and not self._is_deep(depth):
            wanted = 1
        wanted = min(wanted, most)
        unique = bool(schema.get("uniqueItems"))
        made: list[Any] = []
        for place in range(wanted):
            inner = first[place] if place < len(first) else rest
            item = self._property(inner, depth, needed=place < least)
            for candidate in (item, *self._others(inner, item, place)) if unique else (item,):
                if candidate is not _MISSING and not (unique and candidate in made):
                    made.append(candidate)
                    break
        if unique and len(made) < least:
            raise bad_request("JSON schema: uniqueItems together with minItems is not simulated for these items.")
        return made

    def _others(self, schema: Any, item: Any, place: int) -> list[Any]:
        return json_leaves.others(self._merged(schema, 0) if isinstance(schema, dict) else {}, item, place)


_MISSING: Final = object()


def _both(one: dict[str, Any], other: Any) -> dict[str, Any]:
    """A schema that asks for what both ask for."""
    if other is True:
        return one
    if not isinstance(other, dict):
        raise bad_request("JSON schema: an alternative allows nothing.")
    merged = {**one, **other}
    if "properties" in one and "properties" in other:
        merged["properties"] = {**one["properties"], **other["properties"]}
    if "required" in one and "required" in other:
        merged["required"] = [*one["required"], *other["required"]]
    for name, pick in (("minimum", max), ("maximum", min), ("minLength", max), ("maxLength", min)):
        if name in one and name in other:
            merged[name] = pick(one[name], other[name])
    return merged


def _implied(schema: dict[str, Any]) -> str:
    """The type of a schema that names none."""
    if {"properties", "required", "additionalProperties", "minProperties"} & schema.keys():
        return "object"
    if {"items", "prefixItems", "minItems", "maxItems"} & schema.keys():
        return "array"
    if {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"} & schema.keys():
        return "number"
    return "string"


def _nesting_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for node in level
            if isinstance(node, dict | list)
            for inner in (node.values() if isinstance(node, dict) else node)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
