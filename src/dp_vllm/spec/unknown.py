"""Fields that a DPModel does not have: in a file they are a mistake, which reading it into the types would hide. Pure.

The API server refuses them too, in what `kubectl apply` sends.
"""

import difflib
from collections.abc import Iterator

from msgspec import inspect

from dp_vllm.spec import DPModelSpec


def problem(spec: object) -> str:
    """What is wrong with the first field that there is not; empty if all are known. The values are right already."""
    return next(_unknown(spec, inspect.type_info(DPModelSpec), "spec"), "")


def _unknown(value: object, kind: inspect.Type, path: str) -> Iterator[str]:
    match kind:
        case inspect.Metadata():
            yield from _unknown(value, kind.type, path)
        case inspect.UnionType():
            for one in kind.types:
                yield from _unknown(value, one, path)
        case inspect.StructType() | inspect.TypedDictType() if isinstance(value, dict):
            fields = {field.encode_name: field.type for field in kind.fields}
            for name, inner in value.items():
                if name in fields:
                    yield from _unknown(inner, fields[name], f"{path}.{name}")
                else:
                    yield f"{path}.{name} is not a field; {_instead(str(name), list(fields))}"
        case inspect.VarTupleType() if isinstance(value, list):
            for number, inner in enumerate(value):
                yield from _unknown(inner, kind.item_type, f"{path}[{number}]")


def _instead(name: str, fields: list[str]) -> str:
    meant = difflib.get_close_matches(name, fields, 1)
    return f"did you mean {meant[0]}?" if meant else f"there are {', '.join(fields)}"
