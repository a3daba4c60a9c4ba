"""How a user's partial pod template and ours become one."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm.spec import BadSpec
from dp_vllm_operator.render.contained import contains
from dp_vllm_operator.render.template import KEYS, merge

_LEAVES = st.booleans() | st.integers(0, 3) | st.sampled_from(("", "a", "b"))
_FIELDS = ("name", "command", "securityContext", "containers", "env", "volumes")


def _value(field: str, inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A value of the shape that the field has everywhere."""
    if field in KEYS:
        items = st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
        return items.map(lambda items: [rest | {KEYS[field]: key} for key, rest in items.items()])
    if field == "command":
        return st.lists(_LEAVES, max_size=2)
    return inner if field == "securityContext" else _LEAVES


def _map(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional={field: _value(field, inner) for field in _FIELDS})


_TEMPLATES = _map(_map(st.just({})))


@given(_TEMPLATES, _TEMPLATES)
def test_what_lies_over_it_wins(under: Any, over: Any) -> None:
    assert contains(merge(under, over, ""), over)


@given(_TEMPLATES, _TEMPLATES)
def test_to_merge_it_once_more_changes_nothing(under: Any, over: Any) -> None:
    once = merge(under, over, "")

    assert merge(once, over, "") == once


@given(_TEMPLATES, _TEMPLATES)
def test_neither_is_changed(under: Any, over: Any) -> None:
    before = copy.deepcopy((under, over))

    merge(under, over, "")

    assert (under, over) == before


@given(_TEMPLATES)
def test_nothing_over_or_under_it_leaves_it_as_it_is(template: Any) -> None:
    assert merge(template, {}, "") == template
    assert merge({}, template, "") == template


@given(_TEMPLATES, st.sampled_from(_FIELDS))
def test_null_takes_a_field_out(under: Any, field: str) -> None:
    assert merge(under, {field: None}, "") == {key: value for key, value in under.items() if key != field}


@pytest.mark.parametrize(("name", "key"), KEYS.items())
def test_lists_of_a_pod_are_merged_by_their_keys(name: str, key: str) -> None:
    whole = name == "env"
    one = {key: "a", "x": 1, "y": 1}

    merged = merge({name: [one, {key: "b"}]}, {name: [{key: "c"}, {key: "a", "x": 2}]}, "")[name]

    assert [item[key] for item in merged] == ["a", "b", "c"]
    assert merged[0]["x"] == 2
    assert ("y" in merged[0]) is (not whole and name not in ("volumes", "resourceClaims"))


def test_other_lists_are_replaced() -> None:
    assert merge({"args": ["a", "b"]}, {"args": ["c"]}, "") == {"args": ["c"]}


def test_a_volume_has_one_source() -> None:
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "10Gi"}}

    def laid(over: dict[str, Any]) -> Any:
        return merge({"volumes": [shm]}, {"volumes": [{"name": "shm", **over}]}, "")["volumes"]

    assert laid({"hostPath": {"path": "/dev/shm"}}) == [{"name": "shm", "hostPath": {"path": "/dev/shm"}}]
    assert laid({"emptyDir": {"sizeLimit": "1Gi"}}) == [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}
    ]


def test_a_variable_has_one_source() -> None:
    secret = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}

    assert merge({"env": [{"name": "A", "value": "1"}]}, {"env": [secret]}, "") == {"env": [secret]}


def test_a_port_is_there_for_tcp_and_for_udp() -> None:
    ports = {"ports": [{"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}]}

    assert merge(ports, ports, "") == ports


@pytest.mark.parametrize(
    ("over", "merged"),
    [
        ({"volumes": [{"name": "a", "$patch": "delete"}]}, {"volumes": [{"name": "b", "x": 1}], "map": {"k": 1}}),
        ({"volumes": [{"name": "b", "$patch": "replace", "y": 1}], "map": {"$patch": "delete"}},
         {"volumes": [{"name": "a"}, {"name": "b", "y": 1}]}),
        ({"volumes": [{"$patch": "replace"}, {"name": "c"}], "map": {"$patch": "replace", "l": 2}},
         {"volumes": [{"name": "c"}], "map": {"l": 2}}),
        ({"volumes": [{"$patch": "merge", "name": "a", "x": 2}]},
         {"volumes": [{"name": "a", "x": 2}, {"name": "b", "x": 1}], "map": {"k": 1}}),
        ({"more": {"$patch": "replace", "k": {"$patch": "delete"}, "l": None}, "volumes": [], "map": None},
         {"volumes": [{"name": "a"}, {"name": "b", "x": 1}], "more": {}}),
    ],
)  # fmt: skip
def test_directives_take_out_and_replace(over: dict[str, Any], merged: dict[str, Any]) -> None:
    under = {"volumes": [{"name": "a"}, {"name": "b", "x": 1}], "map": {"k": 1}}

    assert merge(under, over, "") == merged


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"spec": {"volumes": {}}}, "t.spec.volumes: {} is not allowed; it must be a list"),
        ({"spec": 5}, "t.spec: 5 is not allowed; it must be a mapping"),
        ({"spec": {"host": {"a": 1}}}, "t.spec.host: {'a': 1} is not allowed; it must be a plain value"),
        ({"spec": {"volumes": [{"emptyDir": {}}]}},
         "t.spec.volumes[0]: {'emptyDir': {}} is not allowed; it must be a mapping with `name`"),
        ({"spec": {"volumes": ["a"]}}, "t.spec.volumes[0]: a is not allowed; it must be a mapping with `name`"),
        ({"spec": {"volumes": [{"name": "a", "emptyDir": 1}]}},
         "t.spec.volumes[a].emptyDir: 1 is not allowed; it must be a mapping"),
        ({"spec": {"$retainKeys": ["a"]}},
         "t.spec.$retainKeys: ['a'] is not allowed; the only directives are $patch: delete, replace and merge"),
        ({"new": {"deep": [{"$patch": "remove"}]}},
         "t.new.deep[0].$patch: remove is not allowed; the only directives are $patch: delete, replace and merge"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_its_path(over: dict[str, Any], said: str) -> None:
    under = {"spec": {"volumes": [{"name": "a", "emptyDir": {}}], "host": "x"}}

    with pytest.raises(BadSpec) as error:
        merge(under, over, "t")

    assert str(error.value) == said
