"""Plain fields of a request's body, read as Pydantic reads them for vLLM, and refused in its words."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from dp_vllm.sim.errors import Invalid

INT64_LEAST: Final = -(2**63)
INT64_MOST: Final = 2**63 - 1
_MAX_REPORTED: Final = 10
_MAX_INPUT_CHARS: Final = 200
_MAX_PROBLEM_CHARS: Final = 1000
_MAX_DIGITS: Final = 4300
_INTEGER: Final = re.compile(r"([+-]?\d+(?:_\d+)*)(?:\.0+)?", re.ASCII)
_TRUE: Final = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE: Final = frozenset({"0", "false", "f", "no", "n", "off"})


class Kind(enum.Enum):
    """What a field holds."""

    ANY = enum.auto()
    SWITCH = enum.auto()
    TEXT = enum.auto()
    TEXTS = enum.auto()
    STOPS = enum.auto()
    """A text, or a list of at most four."""
    WHOLE = enum.auto()
    WHOLES = enum.auto()
    NUMBER = enum.auto()
    LIST = enum.auto()
    """A list of what is read later."""
    BIASES = enum.auto()
    """Numbers by name."""
    PROMPT = enum.auto()
    """A text, token ids, or a list of either."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a body."""

    name: str
    kind: Kind
    nullable: bool = False
    least: int | None = None
    most: int | None = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a body."""

    kind: str
    where: str
    message: str
    given: object
    context: dict[str, Any] | None = None

    def __str__(self) -> str:
        shown: dict[str, Any] = {"type": self.kind, "loc": self.where, "msg": self.message}
        shown["input"] = _summary(self.given)
        if self.context:
            shown["ctx"] = self.context
        text = str(shown)
        return text if len(text) <= _MAX_PROBLEM_CHARS else text[:_MAX_PROBLEM_CHARS] + "...[truncated]"


def refusal(problems: list[Problem]) -> Invalid:
    """All that is wrong with a body, as vLLM lists it."""
    word = "error" if len(problems) == 1 else "errors"
    lines = [f"{len(problems)} validation {word}:", *(f"  {problem}" for problem in problems[:_MAX_REPORTED])]
    if len(problems) > _MAX_REPORTED:
        lines.append(f"  ...and {len(problems) - _MAX_REPORTED} more {word}")
    return Invalid(400, "\n".join(lines), "Bad Request", problems[0].where)


def read(value: dict[str, Any], fields: Iterable[Field]) -> dict[str, Any]:
    """The body with these fields converted; the others stay as they are. Raises Refusal that names what is wrong."""
    problems: list[Problem] = []
    found = dict(value)
    for field in fields:
        where = f"body.{field.name}"
        if field.name not in value:
            if field.required:
                problems.append(Problem("missing", where, "Field required", value))
            continue
        given = value[field.name]
        if given is None and field.nullable:
            continue
        converted = _convert(field, given, where)
        if _is_bad(converted):
            problems += converted
        else:
            found[field.name] = converted
    if problems:
        raise refusal(problems)
    return found


def _convert(field: Field, given: Any, where: str) -> Any:
    """The field's value, or a list of problems."""

    def whole(item: Any, at: str) -> int | Problem:
        return _whole(item, at, field.least, field.most)

    if field.kind is Kind.WHOLE:
        result: Any = whole(given, where)
    elif field.kind is Kind.WHOLES:
        result = _several(given, where, whole)
    elif field.kind is Kind.TEXTS:
        result = _several(given, where, _text)
    else:
        result = _READERS[field.kind](given, where)
    return [result] if isinstance(result, Problem) else result


def _whole(given: Any, where: str, least: int | None, most: int | None) -> int | Problem:
    number = _integer(given, where)
    if isinstance(number, Problem):
        return number
    if most is not None and number > most:
        return Problem("less_than_equal", where, f"Input should be less than or equal to {most}", given, {"le": most})
    if least is not None and number < least:
        message = f"Input should be greater than or equal to {least}"
        return Problem("greater_than_equal", where, message, given, {"ge": least})
    return number


def _integer(given: Any, where: str) -> int | Problem:
    if isinstance(given, int):
        return int(given)
    if isinstance(given, float):
        if not math.isfinite(given):
            return Problem("finite_number", where, "Input should be a finite number", given)
        if given % 1:
            message = "Input should be a valid integer, got a number with a fractional part"
            return Problem("int_from_float", where, message, given)
        if INT64_LEAST < given < INT64_MOST:
            return int(given)
        return _oversized(where, given)
    if isinstance(given, str):
        digits = _INTEGER.fullmatch(given.strip())
        if digits is None:
            message = "Input should be a valid integer, unable to parse string as an integer"
            return Problem("int_parsing", where, message, given)
        return int(digits[1]) if len(digits[1]) <= _MAX_DIGITS else _oversized(where, given)
    return Problem("int_type", where, "Input should be a valid integer", given)


def _oversized(where: str, given: object) -> Problem:
    message = "Unable to parse input string as an integer, exceeded maximum size"
    return Problem("int_parsing_size", where, message, given)


def _number(given: Any, where: str) -> float | Problem:
    try:
        if isinstance(given, str | int | float):
            return float(given)
    except OverflowError:
        pass
    except ValueError:
        message = "Input should be a valid number, unable to parse string as a number"
        return Problem("float_parsing", where, message, given)
    return Problem("float_type", where, "Input should be a valid number", given)


def _switch(given: Any, where: str) -> bool | Problem:
    if isinstance(given, int | float) and given in (0, 1):
        return bool(given)
    if isinstance(given, str) and given.lower() in _TRUE | _FALSE:
        return given.lower() in _TRUE
    if isinstance(given, str | int | float):
        return Problem("bool_parsing", where, "Input should be a valid boolean, unable to interpret input", given)
    return Problem("bool_type", where, "Input should be a valid boolean", given)


def _text(given: Any, where: str) -> str | Problem:
    return given if isinstance(given, str) else Problem("string_type", where, "Input should be a valid string", given)


def _stops(given: Any, where: str) -> Any:
    if isinstance(given, str):
        return given
    texts = _several(given, where, _text, longest=4)
    if _is_bad(texts):
        return [_text(given, where), *texts]
    return texts


def _prompt(given: Any, where: str) -> Any:
    """A text stays one; of a list's readings the first that fits, texts before ids."""
    if isinstance(given, str):
        return given

    def ids(value: Any, at: str) -> list[Any]:
        return _several(value, at, lambda item, place: _whole(item, place, 0, None))

    texts = _several(given, where, _text)
    readings = (texts, ids(given, where), _several(given, where, ids))
    for reading in readings:
        if not _is_bad(reading):
            return reading
    return [*readings[1], *readings[2], _text(given, where), *texts]


def _several(given: Any, where: str, convert: Any, longest: int | None = None) -> list[Any]:
    if not isinstance(given, list):
        return [Problem("list_type", where, "Input should be a valid list", given)]
    items = [convert(item, f"{where}.{place}") for place, item in enumerate(given)]
    problems = list(_problems(items))
    if not problems and longest is not None and len(given) > longest:
        message = f"List should have at most {longest} items after validation, not {len(given)}"
        context = {"field_type": "List", "max_length": longest, "actual_length": len(given)}
        return [Problem("too_long", where, message, given, context)]
    return problems or items


def _biases(given: Any, where: str) -> Any:
    if not isinstance(given, dict):
        return [Problem("dict_type", where, "Input should be a valid dictionary", given)]
    read = {name: _number(value, f"{where}.{name}") for name, value in given.items()}
    return list(_problems(read.values())) or read


def _problems(values: Iterable[object]) -> Iterator[Problem]:
    """All problems among what was read, those within a list of them too."""
    for value in values:
        if isinstance(value, Problem):
            yield value
        elif _is_bad(value):
            yield from _problems(value)


def _is_bad(value: object) -> TypeGuard[list[Problem]]:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Problem)


def _summary(value: object) -> str:
    """A value as vLLM shows it: containers by their size, long texts cut."""
    if isinstance(value, list | dict):
        return f"<{type(value).__name__} of {len(value)} items>"
    text = str(value)
    return text if len(text) <= _MAX_INPUT_CHARS else text[:_MAX_INPUT_CHARS] + "...[truncated]"


_READERS: Final[dict[Kind, Callable[[Any, str], Any]]] = {
    Kind.ANY: lambda given, _where: given,
    Kind.NUMBER: _number,
    Kind.SWITCH: _switch,
    Kind.TEXT: _text,
    Kind.STOPS: _stops,
    Kind.LIST: lambda given, where: _several(given, where, lambda item, _at: item),
    Kind.BIASES: _biases,
    Kind.PROMPT: _prompt,
}
