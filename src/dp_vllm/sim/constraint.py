"""What an answer has to be: prose, a text that fits a constraint, or a call of a tool. All of it is pure.

Of `tool_choice: auto`: a tool is called if a word of its name is one of the last message's, which must be the user's;
otherwise the answer is prose. So a tool's result is answered with prose, and no conversation goes round in circles.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from dp_vllm.sim import json_schema, patterns
from dp_vllm.sim.errors import bad_request, bad_value

_NO_KIND: Final = "You must use one kind of structured outputs constraint but none are specified: "
_KINDS: Final = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
_USAGE: Final = 'Correct usage: `{"type": "function", "function": {"name": "my_function"}}`'
_LEAST_WORD: Final = 3
"""Letters of the shortest word by which a tool is found."""
_OBJECT: Final = {"simulated": True}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the client offers."""

    name: str
    parameters: Any


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool, with its arguments as JSON."""

    name: str
    arguments: str
    named: bool
    """The client chose the tool: vLLM's `finish_reason` is then `stop`."""
    id: str = field(default_factory=lambda: f"chatcmpl-tool-{uuid.uuid4().hex[:16]}")


def text_of_format(response_format: Any, structured: Any, seed: int) -> str | None:
    """The text that `response_format` or `structured_outputs` demands; None if neither demands one. Raises Refusal."""
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind in (None, "text"):
        if response_format is not None and kind is None:
            raise bad_request("response_format.type must be 'text', 'json_object' or 'json_schema'.", "response_format")
        return None if structured is None else _structured(structured, seed)
    if kind == "json_object":
        return _json(_OBJECT)
    if kind != "json_schema":
        raise bad_request(f"response_format of type {kind!r} is not simulated.", "response_format")
    described = response_format.get("json_schema")
    if not isinstance(described, dict):
        message = "When response_format type is 'json_schema', the 'json_schema' field must be provided."
        raise bad_value(message, "response_format")
    if described.get("schema") is None:
        raise bad_request(f"{_NO_KIND}the 'schema' of 'json_schema' is missing.")
    return _json(json_schema.value_for(described["schema"], seed))


def _structured(given: dict[str, Any], seed: int) -> str:
    kinds = [kind for kind in _KINDS if given.get(kind) is not None]
    if len(kinds) != 1:
        if len(kinds) > 1:
            raise bad_request(
                "You can only use one kind of constraints for structured outputs ('json', 'regex' or 'choice')."
            )
        raise bad_request(f"{_NO_KIND}{given}")
    value = given[kinds[0]]
    if kinds[0] == "json":
        return _json(json_schema.value_for(_schema(value), seed))
    if kinds[0] == "json_object":
        return _json(_OBJECT)
    if kinds[0] == "regex" and isinstance(value, str):
        return patterns.matching(value)
    if kinds[0] == "choice" and isinstance(value, list) and all(isinstance(one, str) for one in value):
        if not value:
            raise bad_request("Choice '[]' cannot be an empty list")
        return str(value[seed % len(value)])
    raise bad_request(f"structured_outputs.{kinds[0]} is not simulated.", "structured_outputs")


def _schema(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise bad_request("Invalid JSON grammar specification.") from error


def check_tools(tools: Any, choice: Any) -> None:
    """Raises Refusal if `tools` and `tool_choice` of a chat do not go together."""
    if tools == []:
        message = "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely."
        raise bad_value(message, "tools")
    if choice in (None, "none"):
        return
    if tools is None:
        raise bad_value("When using `tool_choice`, `tools` must be set.", "tool_choice")
    if isinstance(choice, dict):
        _check_named(choice)
    elif choice not in ("auto", "required"):
        message = (
            f'Invalid value for `tool_choice`: {choice}! Only named tools, "none", "auto" or "required" are supported.'
        )
        raise bad_value(message, "tool_choice")


def _check_named(choice: dict[str, Any]) -> None:
    function = choice.get("function")
    if not isinstance(function, dict):
        message = f"Invalid value for `function`: `{function}` in `tool_choice`! {_USAGE}"
        raise bad_value(message, "tool_choice.function")
    if "name" not in function:
        message = f"Expected field `name` in `function` in `tool_choice`! {_USAGE}"
        raise bad_value(message, "tool_choice.function.name")
    if not isinstance(function["name"], str) or not function["name"]:
        message = f"Invalid `name` in `function`: `{function['name']}` in `tool_choice`! {_USAGE}"
        raise bad_value(message, "tool_choice.function.name")


def call_of(tools: Sequence[Tool], choice: str | Tool, messages: Sequence[dict[str, Any]], seed: int) -> Call | None:
    """The call that answers, if one does; `choice` is `auto`, `required`, `none` or the tool that the client named."""
    if isinstance(choice, Tool):
        return _call(choice, seed, named=True)
    if choice == "none" or not tools:
        return None
    fitting = next((tool for tool in tools if _fits(tool, messages)), None)
    if choice == "required":
        fitting = fitting or tools[0]
    return None if fitting is None else _call(fitting, seed, named=False)


def named(tools: Sequence[Tool], name: object) -> Tool:
    """The tool of this name. Raises Refusal."""
    for tool in tools:
        if tool.name == name:
            return tool
    raise bad_value("The tool specified in `tool_choice` does not match any of the specified `tools`", "tool_choice")


def _call(tool: Tool, seed: int, *, named: bool) -> Call:
    return Call(tool.name, _json(json_schema.arguments_for(tool.parameters, seed)), named)


def _fits(tool: Tool, messages: Sequence[dict[str, Any]]) -> bool:
    last = messages[-1] if messages else {}
    if last.get("role", "user") != "user":
        return False
    content = last.get("content")
    parts = content if isinstance(content, list) else [content]
    if any(isinstance(part, dict) and part.get("type") == "tool_result" for part in parts):
        return False
    said = " ".join(str(part.get("text", "")) if isinstance(part, dict) else str(part) for part in parts)
    return bool(_words(tool.name) & _words(said))


def _words(text: str) -> set[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return {word for word in re.findall(r"[^\W_]+", spaced.lower()) if len(word) >= _LEAST_WORD}


def _json(value: Any) -> str:
    return json.dumps(value)
