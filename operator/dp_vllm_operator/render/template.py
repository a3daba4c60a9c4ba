"""Lays one partial pod template over another, as kubectl's strategic merge does. Pure; knows nothing of models.

Maps are merged key by key, and null takes a key out. Lists that pods know by a key (containers by name, mounts by path)
are merged item by item; any other list is replaced. `$patch: delete` takes an item or a map out, `$patch: replace` puts
it in as a whole; kubectl's other directives are refused. A variable is replaced whole, where kubectl makes one of two
sources that no API server takes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dp_vllm.spec import BadSpec

Json = Any
Template = dict[str, Any]

KEYS: Final[Mapping[str, str]] = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "ports": "containerPort",
    "env": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
}
"""What tells the items of a pod's list apart, by the list's name."""

_WHOLE: Final = ("env",)
"""Lists whose items are replaced."""
_ONE_SOURCE: Final = ("volumes", "resourceClaims")
"""Lists whose items keep only the keys that are laid over them."""

_DIRECTIVE: Final = "$patch"


def merge(under: Mapping[str, Json], over: Mapping[str, Json], path: str) -> Template:
    """Both in one; `over` wins. Raises BadSpec with the path of what does not fit, `path` being where they begin."""
    _check_directives(over, path)
    if over.get(_DIRECTIVE) == "replace":
        return _plain_map(over, path)
    merged = dict(under)
    for key, value in over.items():
        here = f"{path}.{key}"
        if key == _DIRECTIVE:
            continue
        if value is None or _is_deleted(value):
            merged.pop(key, None)
        elif merged.get(key) is None:
            merged[key] = _plain(value, here)
        else:
            merged[key] = _merged(merged[key], value, key, here)
    return merged


def _merged(under: Json, over: Json, key: str, path: str) -> Json:
    if _kind(under) != _kind(over):
        raise BadSpec(f"{path}: {_shown(over)} is not allowed; it must be {_kind(under)}")
    if isinstance(over, dict):
        return merge(under, over, path)
    if isinstance(over, list) and key in KEYS:
        return _merged_list(under, over, key, path)
    return _plain(over, path)


def _merged_list(under: Sequence[Json], over: Sequence[Json], name: str, path: str) -> list[Json]:
    laid = list(_numbered(over, name, path))
    if {_DIRECTIVE: "replace"} in over:
        return [_plain(item, path) for _, item in laid]
    merged = dict(_numbered(under, name, path))
    for key, item in laid:
        if _is_deleted(item):
            merged.pop(key, None)
        elif key not in merged or name in _WHOLE:
            merged[key] = _plain(item, path)
        else:
            below = merged[key]
            if name in _ONE_SOURCE:
                below = {field: value for field, value in below.items() if field in item}
            merged[key] = merge(below, item, f"{path}[{_shown(key[0])}]")
    return list(merged.values())


def _numbered(items: Sequence[Json], name: str, path: str) -> Iterator[tuple[tuple[Json, int], Template]]:
    """The items by key, and which of those with the same key they are: a port has one for TCP and one for UDP."""
    seen: dict[Json, int] = {}
    for number, item in enumerate(items):
        if item == {_DIRECTIVE: "replace"}:
            continue
        if not isinstance(item, dict) or not isinstance(item.get(KEYS[name]), str | int):
            raise BadSpec(f"{path}[{number}]: {_shown(item)} is not allowed; it must be a mapping with `{KEYS[name]}`")
        key = item[KEYS[name]]
        seen[key] = seen.get(key, -1) + 1
        yield (key, seen[key]), item


def _plain(value: Json, path: str) -> Json:
    """Without nulls and directives: what remains where nothing lies below."""
    if isinstance(value, dict):
        return _plain_map(value, path)
    if isinstance(value, list):
        return [_plain(item, f"{path}[{n}]") for n, item in enumerate(value) if not _is_directive(item)]
    return value


def _plain_map(value: Mapping[str, Json], path: str) -> Template:
    _check_directives(value, path)
    kept = {key: item for key, item in value.items() if key != _DIRECTIVE and item is not None}
    return {key: _plain(item, f"{path}.{key}") for key, item in kept.items() if not _is_deleted(item)}


def _kind(value: Json) -> str:
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else "a plain value"


def _is_deleted(value: Json) -> bool:
    return isinstance(value, dict) and value.get(_DIRECTIVE) == "delete"


def _is_directive(value: Json) -> bool:
    return _is_deleted(value) or value == {_DIRECTIVE: "replace"}


def _check_directives(value: Mapping[str, Json], path: str) -> None:
    for key, item in value.items():
        if key.startswith("$") and (key != _DIRECTIVE or item not in ("delete", "replace", "merge")):
            raise BadSpec(f"{path}.{key}: {_shown(item)} is not allowed; the only directives are $patch: delete, "
                          "replace and merge")  # fmt: skip


def _shown(value: Json) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
