"""Says in words what is wrong with a value that a msgspec type does not take: the field, the value, what is allowed.

msgspec's own words name the field, but neither the value nor the choices, and a pattern only as itself. Pure.
"""

import functools
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from dp_vllm.spec.fields import ALLOWED

Schema = dict[str, Any]

_SHOWN: Final = 60
"""Longest value that is repeated in an error."""


def explain(error: msgspec.ValidationError, of: type, value: object, root: str) -> str:
    """One sentence for an error that converting `value` to the type has raised; `root` is what `value` is called."""
    said, _, path = str(error).partition(" - at `$")
    steps = list(_steps(path.rstrip("`")))
    if missing := re.match(r"Object missing required field `(.*)`", said):
        field = _field(root, [*steps, missing[1]])
        return f"{field} is missing; it must be {_allowed(of, [*steps, missing[1]])}"
    field = _field(root, steps)
    if not said.startswith(("Expected", "Invalid enum")):
        return f"{field}: {said}"
    return f"{field}: {_shown(value, steps)} is not allowed; it must be {_allowed(of, steps)}"


def _steps(path: str) -> Iterator[str | int]:
    """The names and numbers in `.engine.args[3]`; a key of a mapping is `...`, since msgspec does not name it."""
    for name, number in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", path):
        yield name or (int(number) if number.isdigit() else number)


def _field(root: str, steps: list[str | int]) -> str:
    return root + "".join(f"[{step}]" if isinstance(step, int) or step == "..." else f".{step}" for step in steps)


def _shown(value: Any, steps: list[str | int]) -> str:
    for step in steps:
        if step == "...":
            return "a value in it"
        value = value[step]
    text = repr(value) if not isinstance(value, bool | None) else {True: "true", False: "false", None: "null"}[value]
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _allowed(of: type, steps: list[str | int]) -> str:
    schema = _schema(of)
    parts = schema.get("$defs", {})
    node = _resolved(schema, parts)
    for step in steps:
        if isinstance(step, int):
            node = node["items"]
        elif step == "...":
            node = node["additionalProperties"]
        else:
            node = node["properties"][step]
        node = _resolved(node, parts)
    return " or ".join(_words(_resolved(kind, parts)) for kind in node.get("anyOf", [node]))


@functools.cache
def _schema(of: type) -> Schema:
    return msgspec.json.schema(of)


def _resolved(node: Schema, parts: dict[str, Schema]) -> Schema:
    return parts[node["$ref"].rpartition("/")[2]] | node if "$ref" in node else node


def _words(node: Schema) -> str:
    if ALLOWED in node:
        return str(node[ALLOWED])
    if "enum" in node:
        return " or ".join(node["enum"])
    match node["type"]:
        case "integer":
            return f"a whole number{_between(node)}"
        case "boolean":
            return "true or false"
        case "array":
            return f"a list{_up_to(node, 'maxItems', 'items')}"
        case "object":
            return f"a mapping{_up_to(node, 'maxProperties', 'entries')}"
        case "null":
            return "null"
        case _:
            return f"a text{_up_to(node, 'maxLength', 'characters')}"


def _between(node: Schema) -> str:
    least, most = node.get("minimum"), node.get("maximum")
    return "".join((f" from {least}" if least is not None else "", f" to {most}" if most is not None else ""))


def _up_to(node: Schema, key: str, what: str) -> str:
    return f" of at most {node[key]} {what}" if key in node else ""
