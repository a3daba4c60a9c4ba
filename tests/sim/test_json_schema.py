"""Values that a JSON Schema allows."""

import re
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from dp_vllm.sim import patterns
from dp_vllm.sim.errors import Refusal
from dp_vllm.sim.json_schema import arguments_for, value_for


class Point(BaseModel):
    model_config = ConfigDict(extra="forbid")
    x: float = Field(gt=0, lt=1)
    y: int = Field(ge=-7, le=-3)


class Tree(BaseModel):
    name: str = Field(min_length=20, max_length=30)
    children: list["Tree"]
    parent: "Tree | None" = None


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["small", "large"]
    points: list[Point] = Field(min_length=2)
    pair: tuple[int, str]
    tree: Tree
    day: str = Field(pattern=r"^\d{4}-\d{2}$")
    either: Point | Tree
    count: int = Field(multiple_of=7, gt=7)
    extra: dict[str, Point] = Field(min_length=1)
    anything: Any


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "model", [Point, Tree, Order, list[Order], Literal[1, "a", None], dict[str, int], set[Literal["a", "b"]]], ids=str
)
def test_a_value_is_what_its_schema_asks_for(model: Any, seed: int) -> None:
    adapter = TypeAdapter(model)
    adapter.validate_python(value_for(adapter.json_schema(), seed), strict=False)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (True, "simulated"),
        ({}, "simulated"),
        ({"const": {"a": 1}}, {"a": 1}),
        ({"enum": [3]}, 3),
        ({"type": ["null", "string"]}, None),
        ({"type": "integer", "minimum": 4.2}, 5),
        ({"type": "integer", "exclusiveMaximum": -3}, -4),
        ({"type": "number", "maximum": 0.25}, 0.25),
        ({"type": "number", "minimum": 10, "multipleOf": 4}, 12),
        ({"type": "string", "maxLength": 3}, "sim"),
        ({"type": "string", "format": "date"}, "2026-01-01"),
        ({"type": "array", "maxItems": 0}, []),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3, "uniqueItems": True}, [1, 2, 3]),
        ({"items": {"type": "string", "maxLength": 3}, "minItems": 3, "uniqueItems": True}, ["sim", "si1", "si2"]),
        ({"items": {"multipleOf": 7, "type": "integer"}, "minItems": 3, "uniqueItems": True}, [7, 14, 21]),
        ({"prefixItems": [{"const": 1}, {"const": 2}], "items": False}, [1, 2]),
        ({"required": ["a"]}, {"a": "simulated"}),
        ({"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}]}, {"a": 1, "b": 2}),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 5}}}, 5),
        ({"anyOf": [{"type": "integer", "minimum": 3, "maximum": 2}, {"const": "then"}]}, "then"),
        ({"properties": {"a": {"not": {}}, "b": {"const": 1}}}, {"b": 1}),
    ],
    ids=str,
)
def test_the_value_of_a_small_schema(schema: Any, value: object) -> None:
    assert value_for(schema) == value


@pytest.mark.parametrize(
    "items", [{"enum": ["a", "b", 3]}, {"type": "integer", "minimum": 1, "maximum": 3}, {"$ref": "#/$defs/x"}], ids=str
)
def test_items_that_differ_are_those_that_are_allowed(items: Any) -> None:
    made = value_for({"items": items, "minItems": 3, "uniqueItems": True, "$defs": {"x": {"enum": [1, 2, 3]}}})
    assert sorted(made, key=str) in ([3, "a", "b"], [1, 2, 3])


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nope"},
        {"items": {"enum": ["a"]}, "minItems": 2, "uniqueItems": True},
        {"items": {"type": "string", "maxLength": 0}, "minItems": 2, "uniqueItems": True},
        {"items": {"type": "integer", "maximum": 1}, "minItems": 2, "uniqueItems": True},
        {"items": {"type": "string", "format": "date"}, "minItems": 2, "uniqueItems": True},
        {"not": {}},
        {"$ref": "#"},
        {"$ref": "#/nowhere"},
        {"$ref": "https://example.com/schema"},
        {"enum": []},
        {"anyOf": []},
        {"type": "array", "minItems": 10**12},
        {"type": "array", "minItems": 10**3, "items": {"type": "array", "minItems": 10**3}},
        {"type": "string", "minLength": 10**12},
        {"type": "object", "minProperties": 10**12},
        {"type": "string", "pattern": "a{1000000000}"},
        {"type": "string", "pattern": "("},
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"type": "number", "minimum": 10**400},
        {"required": ["a"], "properties": {"a": {"$ref": "#"}}},
        {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"required": ["a"], "additionalProperties": False},
        {"properties": 5},
        {"type": "array", "maxItems": "x"},
        {"type": "array", "prefixItems": {"a": 1}},
        5,
    ],
    ids=lambda schema: str(schema)[:60],
)
def test_a_schema_that_cannot_be_fulfilled_is_refused(schema: Any) -> None:
    with pytest.raises(Refusal) as refused:
        value_for(schema)
    assert refused.value.status == 400


def test_a_schema_that_is_nested_too_deeply_is_refused() -> None:
    schema: Any = {"const": 1}
    for _ in range(40):
        schema = {"properties": {"a": schema}}
    with pytest.raises(Refusal, match="at most 64 levels"):
        value_for(schema)


def test_many_ways_into_itself_stay_cheap() -> None:
    schema = {"properties": {f"p{place}": {"$ref": "#"} for place in range(30)}}
    assert len(str(value_for(schema))) < 20_000


def test_a_tool_without_parameters_has_no_arguments() -> None:
    assert arguments_for(None) == arguments_for({}) == {}
    with pytest.raises(Refusal):
        arguments_for({"type": "string"})


@pytest.mark.parametrize(
    "pattern",
    [
        r"^\d{3}-\d{4}$",
        r"(cat|dog)s?",
        r"[A-Za-z_][A-Za-z0-9_]*",
        r"(?:a|b)+c{2,}",
        r"[^\w\s]",
        r"[]x]\.\\",
        r"\w+@\w+\.com",
        r"(a(b(c)))",
        "",
    ],
)
@pytest.mark.parametrize("least", [0, 12])
def test_a_text_matches_its_pattern(pattern: str, least: int) -> None:
    try:
        text = patterns.matching(pattern, least)
    except Refusal:
        assert least
        return
    assert re.fullmatch(pattern, text) and len(text) >= least


@pytest.mark.parametrize("pattern", [r"(?=a)", r"(a)\1", r"[[:alpha:]]", "*", "a{2", "[z-a]", "a)", "\\", "(" * 50])
def test_an_intricate_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(Refusal):
        patterns.matching(pattern)
