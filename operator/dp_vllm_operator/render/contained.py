"""Whether a live object still is what was asked for, though the API server and others have added to it. Pure.

Lists are compared as server-side apply merges them: by key where it has one, else as a whole. Amounts are compared as
numbers: the API server writes 0.5 as 500m.
"""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "imagePullSecrets": ("name",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "ownerReferences": ("uid",),
}
"""What tells the items of a list apart, by the list's name. Ports: see `_keys`."""

_WHOLE: Final = ("selector", "matchLabels", "podSelector", "namespaceSelector", "labelSelector", "nodeSelector",
                 "roleRef", "secretKeyRef", "configMapKeyRef", "fieldRef")  # fmt: skip
"""Maps to which nobody may add."""
_DEFAULTED: Final = ("apiVersion", "optional")
"""What the API server itself adds to some of those."""

_AMOUNTS: Final = ("limits", "requests")
_UNITS: Final = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    **{unit: Decimal(1000) ** (power + 1) for power, unit in enumerate("kMGTPE")},
    **{f"{unit}i": Decimal(1024) ** (power + 1) for power, unit in enumerate("KMGTPE")},
}  # fmt: skip


def contains(live: Any, desired: Any, name: str = "") -> bool:
    """Whether everything in `desired` is in `live`. `name` is the field that both are in."""
    if isinstance(desired, Mapping):
        return isinstance(live, Mapping) and _map_contains(live, desired, name)
    if isinstance(desired, list | tuple):
        return isinstance(live, list) and _list_contains(live, desired, name)
    return bool(live == desired)


def amount(text: object) -> Decimal | None:
    """A quantity as a number; None if it is none."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE]-?[0-9]+)?", str(text))
    if match is None:
        return None
    number, unit = match[1], match[2] or ""
    return Decimal(number) * _UNITS[unit] if unit in _UNITS else Decimal(number + unit)


def _map_contains(live: Mapping[str, Any], desired: Mapping[str, Any], name: str) -> bool:
    if name in _WHOLE and not live.keys() - desired.keys() <= set(_DEFAULTED):
        return False
    if name in _AMOUNTS:
        return all(key in live and _same_amount(live[key], value) for key, value in desired.items())
    return all(key in live and contains(live[key], value, key) for key, value in desired.items())


def _same_amount(live: object, desired: object) -> bool:
    return live == desired or (amount(live) is not None and amount(live) == amount(desired))


def _list_contains(live: Sequence[Any], desired: Sequence[Any], name: str) -> bool:
    keys = _keys(name, desired)
    if not keys:
        return len(live) == len(desired) and all(map(contains, live, desired))
    found = {_key(item, keys): item for item in live}
    return all(contains(found.get(_key(item, keys)), item) for item in desired)


def _keys(name: str, items: Sequence[Any]) -> tuple[str, ...]:
    if name != "ports":
        return _KEYS.get(name, ())
    for of_container_or_service, number in (("containerPort", "containerPort"), ("targetPort", "port")):
        if all(isinstance(item, Mapping) and of_container_or_service in item for item in items):
            return (number, "protocol")
    return ()


def _key(item: Mapping[str, Any], keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(item.get(key, "TCP" if key == "protocol" else None) for key in keys)
