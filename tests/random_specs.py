"""Random specs of DPModels, as JSON: made from the types, so a new field is tried without a word here.

What no type can say (which flags are free, one kind of cache) is said here, once more and on purpose.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from hypothesis import strategies as st
from msgspec import inspect as types

from dp_vllm import spec
from dp_vllm.engine.flags import Takes, vllm_flags
from dp_vllm.spec import owned_flags

Json = Any
Values = st.SearchStrategy[Json]

_TEXT: Final = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"))
_FREE: Final = sorted(
    spelling
    for flag in vllm_flags()
    for spelling in flag.spellings
    if not any(owned_flags.words(owned).have(spelling) for owned in owned_flags.OWNED)
)
_WITH_VALUE: Final = sorted(
    spelling for flag in vllm_flags() if flag.takes is Takes.ONE for spelling in flag.spellings if spelling in _FREE
)
_JSON: Final = st.recursive(
    st.booleans() | st.integers(-(10**9), 10**9) | st.text(_TEXT, max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc/.-", min_size=1), inner, max_size=3),
    max_leaves=5,
)


def specs() -> Values:
    """Specs that are valid."""
    return _of(types.type_info(spec.DPModelSpec))


def json_values() -> Values:
    """Anything."""
    return st.none() | _JSON


@st.composite
def engine_args(draw: st.DrawFn) -> list[str]:
    """Flags that a DPModel's engine may have, with values."""
    flags = st.sampled_from(_FREE).map(lambda flag: [flag])
    value = st.text(_TEXT, max_size=8).filter(lambda text: not text.startswith("-"))
    joined = st.builds(lambda flag, text: [f"{flag}={text}"], st.sampled_from(_WITH_VALUE), value)
    apart = st.builds(lambda flag, text: [flag, text], st.sampled_from(_WITH_VALUE), value)
    return [word for words in draw(st.lists(flags | joined | apart, max_size=6)) for word in words]


def _one_at_most(parts: Mapping[str, Values]) -> Values:
    return st.just({}) | st.one_of([st.fixed_dictionaries({name: values}) for name, values in parts.items()])


def _amounts() -> Values:
    names = st.sampled_from(("cpu", "memory", "ephemeral-storage", "hugepages-2Mi", "example.com/nic"))
    return st.dictionaries(names, st.integers(0, 2**31) | st.from_regex(r"[0-9]{1,9}([mk]|[KMG]i)?", fullmatch=True))


def _variables(parts: Mapping[str, Values]) -> Values:
    source = st.sampled_from(("value", "valueFrom")).flatmap(lambda name: parts[name].map(lambda value: {name: value}))
    one: Values = st.builds(lambda name, of: {"name": name, **of}, parts["name"], st.just({}) | source)
    free = one.filter(lambda v: not v["name"].startswith(("DP_VLLM_", "VLLM_")))
    return st.lists(free, max_size=4, unique_by=lambda v: v["name"])


def _of(kind: types.Type, field: str = "") -> Values:  # noqa: C901 - a table
    match field:
        case "Engine.args":
            return engine_args()
        case "Resources.limits" | "Resources.requests":
            return _amounts()
        case "Engine.runAsUser":
            return st.integers(1, 2**31 - 1) | st.just(-1)
        case "DPModelSpec.template":
            return st.fixed_dictionaries({}, optional={"spec": st.dictionaries(st.just("nodeSelector"), _JSON)})
        case "EnvVar.valueFrom":
            return st.dictionaries(st.sampled_from(("secretKeyRef", "fieldRef")), _JSON, min_size=1)
    match kind:
        case types.Metadata():
            return _of(kind.type, field)
        case types.StructType(cls=cls) | types.TypedDictType(cls=cls):
            return _whole(cls.__name__, kind)
        case types.VarTupleType(item_type=types.TypedDictType() as variable):
            return _variables({f.encode_name: _of(f.type, f"EnvVar.{f.encode_name}") for f in variable.fields})
        case types.VarTupleType():
            return st.lists(_of(kind.item_type), max_size=4)
        case types.UnionType():
            return st.one_of([_of(one, field) for one in kind.types])
        case _:
            return _plain(kind)


def _whole(name: str, kind: types.StructType | types.TypedDictType) -> Values:
    parts = {field.encode_name: _of(field.type, f"{name}.{field.encode_name}") for field in kind.fields}
    if name == "Cache":
        return _one_at_most(parts)
    needed = {field.encode_name for field in kind.fields if field.required}
    return st.fixed_dictionaries(
        {name: parts[name] for name in parts if name in needed},
        optional={name: parts[name] for name in parts if name not in needed},
    )


def _plain(kind: types.Type) -> Values:
    match kind:
        case types.BoolType():
            return st.booleans()
        case types.IntType(ge=least, le=most):
            return st.integers(least, most)
        case types.StrType(pattern=str(pattern)):
            return st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True).filter(
                lambda text: len(text) <= (kind.max_length or 0)
            )
        case types.StrType():
            return st.text(_TEXT, max_size=16)
        case types.EnumType():
            return st.sampled_from([member.value for member in kind.cls])
        case types.LiteralType():
            return st.sampled_from(kind.values)
        case _:
            raise NotImplementedError(kind)
