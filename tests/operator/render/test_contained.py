"""Whether a live object still is what was asked for."""

from decimal import Decimal
from typing import Any

import pytest

from dp_vllm_operator.render.contained import amount, contains


@pytest.mark.parametrize(
    ("live", "desired"),
    [
        ({"a": 1, "b": 2}, {"a": 1}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}),
        ({"args": ["a", "b"]}, {"args": ["a", "b"]}),
        ({"rules": [{"a": 1, "defaulted": 2}]}, {"rules": [{"a": 1}]}),
        ({"containers": [{"name": "mesh"}, {"name": "a", "x": 1}]}, {"containers": [{"name": "a"}]}),
        ({"env": [{"name": "B"}, {"name": "A"}]}, {"env": [{"name": "A"}, {"name": "B"}]}),
        ({"ports": [{"port": 1, "protocol": "UDP"}, {"port": 1, "protocol": "TCP", "targetPort": "x"}]},
         {"ports": [{"port": 1, "targetPort": "x"}]}),
        ({"ports": [{"containerPort": 9}, {"containerPort": 8, "protocol": "TCP"}]}, {"ports": [{"containerPort": 8}]}),
        ({"limits": {"cpu": "500m", "memory": "1Gi", "other/gpu": "2"}},
         {"limits": {"cpu": 0.5, "memory": "1024Mi", "other/gpu": 2}}),
        ({"selector": {"matchLabels": {"a": "b"}}}, {"selector": {"matchLabels": {"a": "b"}}}),
        ({"fieldRef": {"apiVersion": "v1", "fieldPath": "x"}}, {"fieldRef": {"fieldPath": "x"}}),
    ],
)  # fmt: skip
def test_what_others_added_does_not_matter(live: Any, desired: Any) -> None:
    assert contains(live, desired)


@pytest.mark.parametrize(
    ("live", "desired"),
    [
        ({}, {"a": 1}),
        ({"a": 2}, {"a": 1}),
        ({"a": None}, {"a": {"b": 1}}),
        ({"a": {"b": 1}}, {"a": [1]}),
        ({"a": [1]}, {"a": {"b": 1}}),
        ({"args": ["a", "b"]}, {"args": ["a"]}),
        ({"args": ["b", "a"]}, {"args": ["a", "b"]}),
        ({"ingress": [{"from": []}, {"from": ["all"]}]}, {"ingress": [{"from": []}]}),
        ({"containers": [{"name": "b"}]}, {"containers": [{"name": "a"}]}),
        ({"ports": [{"port": 1}, {"port": 2}]}, {"ports": [{"port": 1}]}),
        ({"ports": [{"port": 1, "protocol": "UDP"}]}, {"ports": [{"port": 1, "targetPort": 1, "protocol": "TCP"}]}),
        ({"limits": {"cpu": "500m"}}, {"limits": {"cpu": 1}}),
        ({"limits": {"cpu": "many"}}, {"limits": {"cpu": 1}}),
        ({"limits": {}}, {"limits": {"cpu": 1}}),
        ({"selector": {"app": "m", "more": "x"}}, {"selector": {"app": "m"}}),
        ({"roleRef": {"name": "a", "kind": "ClusterRole"}}, {"roleRef": {"name": "b", "kind": "ClusterRole"}}),
    ],
)
def test_what_was_changed_or_taken_out_does(live: Any, desired: Any) -> None:
    assert not contains(live, desired)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", "1"),
        (2, "2"),
        (0.5, "0.5"),
        ("500m", "0.5"),
        ("1.5Gi", "1610612736"),
        ("1k", "1000"),
        ("1Ki", "1024"),
        ("2e3", "2000"),
        ("1E3", "1000"),
        ("1E", "1e18"),
        ("100n", "1e-7"),
        (".5", "0.5"),
        ("5.", "5"),
    ],
)
def test_amounts_are_numbers(text: object, number: str) -> None:
    assert amount(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "a", "1 Gi", "Gi", "-", None, "1gi"])
def test_other_words_are_no_amounts(text: object) -> None:
    assert amount(text) is None
