"""What two engines on one machine cannot share, and what each gets instead: ports that flags and variables fix.

An engine has a rank in its run, and gets what vLLM gives the rank of its own data parallelism: a port plus the rank, or
plus the rank times the workers of an engine where each worker has one. Rank 0 gets what was typed. Pure.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dp_vllm.engine.command import known_flags
from dp_vllm.engine.flags import Typed

EVENTS: Final = "--kv-events-config"
TRANSFER: Final = "--kv-transfer-config"
ENCODERS: Final = "--ec-transfer-config"
FLAGS: Final = (EVENTS, TRANSFER, ENCODERS)

_BOUND: Final = re.compile(r"tcp://(?:\*|\[?::\]?):(\d+)")
_EVENTS_ENDPOINT: Final = "tcp://*:5557"
"""vLLM's default."""


@dataclass(frozen=True, slots=True)
class _Port:
    """A variable that names a port."""

    default: int
    flag: str
    used_by: str
    """What the flag's value has in it where the port is used."""
    each_worker: bool = False


_VARIABLES: Final = {
    "VLLM_NIXL_SIDE_CHANNEL_PORT": _Port(5600, TRANSFER, "nixl"),
    "VLLM_P2P_SIDE_CHANNEL_PORT": _Port(5710, TRANSFER, "p2p"),
    "VLLM_EC_SIDE_CHANNEL_PORT": _Port(5601, ENCODERS, "connector"),
    "VLLM_MOONCAKE_BOOTSTRAP_PORT": _Port(8998, TRANSFER, "mooncake", each_worker=True),
}
_WORKERS_PORTS: Final = ("kv_port", "handshake_port", "notify_port", "local_ping_port")
"""Keys of `TRANSFER`: ports of the engine itself, one for each of its workers."""
_NAMES: Final = ("engine_id", "lmcache_rpc_port")
"""Keys of it that name one engine."""


@dataclass(frozen=True, slots=True)
class Own:
    """What one engine is started with."""

    words: tuple[str, ...]
    variables: Mapping[str, str]
    """Over those of the run."""


def own(words: Sequence[str], in_file: Mapping[str, str], environ: Mapping[str, str], rank: int, workers: int) -> Own:
    """What the engine of this rank gets of the flags in `words` and of those that its `--config` file has.

    `environ` are the variables that it would inherit, `workers` the GPUs of one engine.
    """
    if rank == 0:
        return Own(tuple(words), {})
    items = known_flags().read(words)
    typed = {item.flag.name for item in items if item.flag is not None}
    changed = [word for item in items for word in _item(item, rank, workers)]
    changed += [
        word
        for flag, value in in_file.items()
        if flag in FLAGS and flag not in typed
        for word in (flag, _value(flag, value, rank, workers))
    ]
    values = {flag: " ".join(_values_of(flag, items)) or in_file.get(flag, "") for flag in FLAGS}
    return Own((*changed, *_default_events(items, rank)), dict(_ports(values, environ, rank, workers)))


def events_ports(words: Sequence[str]) -> frozenset[int]:
    """The ports on which an engine with these words publishes events and replays them, where it binds them."""
    text = " ".join(_values_of(EVENTS, known_flags().read(words)))
    return frozenset(int(port) for port in _BOUND.findall(text))


def _values_of(flag: str, items: Sequence[Typed]) -> Iterator[str]:
    return (value for item in items if item.flag is not None and item.flag.name == flag for value in item.values)


def _item(item: Typed, rank: int, workers: int) -> tuple[str, ...]:
    """The words of one item, with its JSON, or the value of its dotted form, made this rank's own."""
    if item.flag is None or item.flag.name not in FLAGS or len(item.values) != 1:
        return item.words
    _, dot, key = item.spelling.partition(".")
    (value,) = item.values
    own_value = (
        _of_key(key.rpartition(".")[2], value, rank, workers) if dot else _value(item.flag.name, value, rank, workers)
    )
    return item.words if own_value == value else (item.spelling, str(own_value))


def _value(flag: str, text: str, rank: int, workers: int) -> str:
    """The flag's JSON as this rank needs it; what is no JSON stays for the engine to refuse."""
    try:
        given = json.loads(text)
    except ValueError:
        return text
    if not isinstance(given, dict):
        return text
    if flag == EVENTS and _publishes(given):
        given = {"endpoint": _EVENTS_ENDPOINT, **given}
    made = _of(given, rank, workers)
    return text if made == given == json.loads(text) else json.dumps(made)


def _of(value: Any, rank: int, workers: int) -> Any:
    if isinstance(value, list):
        return [_of(one, rank, workers) for one in value]
    if not isinstance(value, dict):
        return value
    made = {key: _of_key(key, _of(one, rank, workers), rank, workers) for key, one in value.items()}
    if value.get("type") == "p2p" and "port" in value:
        made["port"] = _plus(value["port"], rank)
    return made


def _of_key(key: str, value: Any, rank: int, workers: int) -> Any:
    if key in ("endpoint", "replay_endpoint") and isinstance(value, str):
        return _endpoint(value, rank, binds=key == "replay_endpoint" or "*" in value or "::" in value)
    if key in _WORKERS_PORTS:
        return _plus(value, rank * workers)
    if key in _NAMES and value:
        return _plus(value, rank * workers) if str(value).isdigit() else f"{value}_dp{rank}"
    return value


def _endpoint(endpoint: str, rank: int, *, binds: bool) -> str:
    """An address of ZeroMQ: of two that connect to one place neither minds the other, but only one can bind."""
    if endpoint.startswith("ipc://"):
        return f"{endpoint}_dp{rank}"
    base, colon, port = endpoint.rpartition(":")
    if not (binds and colon and endpoint.startswith("tcp://") and port.isdigit() and int(port)):
        return endpoint
    return f"{base}:{int(port) + rank}"


def _plus(port: Any, more: int) -> Any:
    """As a number or as text, like the port; what is no port stays."""
    if isinstance(port, str) and port.isdigit():
        return str(int(port) + more)
    return port + more if isinstance(port, int) and not isinstance(port, bool) and port else port


def _publishes(given: Mapping[str, Any]) -> bool:
    return given.get("enable_kv_cache_events") is True and given.get("publisher") in (None, "zmq")


def _default_events(items: Sequence[Typed], rank: int) -> tuple[str, ...]:
    """The endpoint, where events are turned on by dotted flags alone and none of them says it."""
    dotted = {item.spelling.partition(".")[2]: item.values for item in items if item.flag and item.flag.name == EVENTS}
    enabled = (dotted.get("enable_kv_cache_events") or ("",))[0].lower() == "true"
    if "" in dotted or "endpoint" in dotted or not enabled:
        return ()
    return (f"{EVENTS}.endpoint", _endpoint(_EVENTS_ENDPOINT, rank, binds=True))


def _ports(values: Mapping[str, str], environ: Mapping[str, str], rank: int, workers: int) -> Iterator[tuple[str, str]]:
    for name, port in _VARIABLES.items():
        given = environ.get(name, "")
        if given.isdigit() or (not given and re.search(port.used_by, values[port.flag], re.IGNORECASE)):
            yield name, str(int(given or port.default) + rank * (workers if port.each_worker else 1))
