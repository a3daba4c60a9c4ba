"""The DPModel that a command line of `dp-vllm serve` stands for, and what of it a cluster cannot take. Pure."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dp_vllm import __version__, names, spec
from dp_vllm.engine.command import known_flags
from dp_vllm.engine.flags import Takes, Typed
from dp_vllm.local.flags.config_file import Entry
from dp_vllm.local.flags.settings import SETTINGS
from dp_vllm.local.flags.split import Asked
from dp_vllm.local.redact import Redactor
from dp_vllm.spec import NO_ACCELERATOR, object_name, owned_flags
from dp_vllm.spec.references import escaped

_NO_FIELD: Final = "a DPModel has no field for it"
_SERVICE: Final = "clients use the model's Service, and spec.gateway.service says its port"
_KEYS: Final = "put the keys into a Secret, one a line under the key `api-keys`, and name it in spec.apiKeySecretRef"
_ADMIN_KEYS: Final = (
    "put the keys into a Secret, one a line under the key `admin-api-keys`, and name it in spec.adminApiKeySecretRef"
)
_SECRETS: Final = "give it to the engine as a variable in spec.engine.env, with valueFrom.secretKeyRef"
_GPUS: Final = "the cluster chooses the GPUs of each pod"
_TLS: Final = "TLS belongs before the Service, as in an Ingress"
_REMARKS: Final = {
    "--host": _SERVICE,
    "--port": _SERVICE,
    "--uds": _SERVICE,
    "--api-key": _KEYS,
    "--api-key-file": _KEYS,
    "--admin-api-key": _ADMIN_KEYS,
    "--device-ids": _GPUS,
    "--gpu-groups": _GPUS,
    "--engine": "a cluster runs images: spec.engine.image",
    "--seed-per-replica": "all pods of a DPModel are alike",
    "--shutdown-timeout": "spec.rollout.drainTimeoutSeconds says how long requests may go on",
    "--hang-timeout": "spec.engine.hangTimeoutSeconds says it",
}
"""What to do in a cluster instead, by flag; those of `--ssl-*` have `_TLS`."""
_SAID: Final = frozenset(
    {
        *("--data-parallel-size", "--tensor-parallel-size", "--pipeline-parallel-size", "--policy", "--name"),
        "--allowed-origins",
        *("--dry-run", "--json"),
    }
)
"""Flags of ours that become a field, or are about a run alone."""
_WHOLE: Final = {"--prefix-weight": "prefixWeight", "--first-byte-seconds": "firstByteSeconds"}
"""Flags that become a field of the gateway if their value is a whole number."""
_PATH: Final = re.compile(r"""(?:^|[="])(?:~|\.{1,2})?/[^/]""")


@dataclass(frozen=True, slots=True)
class Exported:
    """A DPModel, and what was left out of it."""

    body: Mapping[str, Any]
    remarks: tuple[str, ...]
    """A sentence each."""


def export(asked: Asked, items: Iterable[Typed], *, exists: Callable[[str], bool]) -> Exported:
    """The object for what was asked in these items of a command line; `exists` says whether a path is on this machine.

    Raises BadSpec for what no DPModel can have.
    """
    settings = asked.settings
    given = {item.flag.name: item for item in _given(asked, items) if item.flag and item.flag.name in SETTINGS}
    served, args, remarks = _engine(asked)
    fields = {
        "model": asked.model,
        "servedModelName": served,
        "replicas": settings.data_parallel_size,
        "tensorParallelSize": settings.tensor_parallel_size,
        "pipelineParallelSize": settings.pipeline_parallel_size,
        "engine": (_SIMULATED if settings.engine == "sim" else {}) | ({"args": args} if args else {}),
        "gateway": _gateway(given),
    }
    remarks += [f"{name}: {why}" for name, why in _remarks(asked, given)]
    remarks += _paths(asked.model, args, exists)
    body = {
        "apiVersion": f"{names.API_GROUP}/{names.API_VERSION}",
        "kind": names.KIND,
        "metadata": {"name": object_name.made_of(settings.name or served or asked.model)},
        "spec": spec.write(spec.read({name: value for name, value in fields.items() if value})),
    }
    return Exported(body, tuple(remarks))


_SIMULATED: Final[dict[str, Any]] = {"image": f"dp-vllm/sim:{__version__}", "accelerator": NO_ACCELERATOR}


def _given(asked: Asked, items: Iterable[Typed]) -> list[Typed]:
    return [*(entry.item for entry in _entries(asked)), *items]


def _entries(asked: Asked) -> list[Entry]:
    return [entry for entry in asked.config.entries if not entry.says_nothing] if asked.config else []


def _engine(asked: Asked) -> tuple[str, list[str], list[str]]:
    """What clients call the model, the engine's flags, and what is left out of them."""
    served = ""
    args: list[str] = []
    remarks: list[str] = []
    ours = {"--model", "--config", *SETTINGS}
    redactor = Redactor((), {})
    from_file = [
        word
        for entry in _entries(asked)
        if not entry.item.flag or entry.item.flag.name not in ours
        for word in _words(entry)
    ]
    for item in known_flags().read((*from_file, *asked.engine_words)):
        if item.flag and item.flag.name == "--served-model-name" and item.values:
            served, *more = item.values
            remarks += [f"{item.spelling}: a DPModel has one name, so {', '.join(more)} is left out"] if more else []
        elif refused := owned_flags.refusal(words := _apart(item)):
            remarks.append(f"{item.spelling}: {refused[1]}")
        elif (shown := redactor.words(words)) != words:
            remarks.append(f"{item.spelling}: it holds a secret ({' '.join(shown)}); {_SECRETS}")
        else:
            args += map(escaped, words)
    return served, args, remarks


def _apart(item: Typed) -> tuple[str, ...]:
    """The words of a flag, in one where its value could be taken for another flag."""
    if len(item.words) == 2 and item.words[1].startswith("-"):
        return ("=".join(item.words),)
    return item.words


def _words(entry: Entry) -> tuple[str, ...]:
    """What would have to be typed for an entry of a `--config` file."""
    flag, values = f"--{entry.key}", entry.item.values
    if entry.item.flag and entry.item.off and not entry.key.startswith("no"):
        return (f"--no-{entry.item.flag.name[2:]}",)
    greedy = entry.item.flag is None or entry.item.flag.takes is Takes.MANY
    return (flag, *values) if greedy or not values else (f"{flag}={values[0]}",)


def _gateway(given: Mapping[str, Typed]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if "--policy" in given:
        fields["policy"] = given["--policy"].values[0]
    for flag, field in _WHOLE.items():
        if flag in given and _is_whole(given[flag]):
            fields[field] = int(float(given[flag].values[0]))
    if "--allowed-origins" in given:
        fields["allowedOrigins"] = json.loads(given["--allowed-origins"].values[0])
    return fields


def _is_whole(item: Typed) -> bool:
    return float(item.values[0]).is_integer()


def _remarks(asked: Asked, given: Mapping[str, Typed]) -> Iterator[tuple[str, str]]:
    if asked.settings.api_key and "--api-key" not in given:
        yield "the API keys of the environment", _KEYS
    if asked.settings.admin_api_key and "--admin-api-key" not in given:
        yield "the administrators' API keys of the environment", _ADMIN_KEYS
    for name, item in given.items():
        said = (
            name in _SAID
            or (name in _WHOLE and _is_whole(item))
            or (name == "--engine" and asked.settings.engine in ("sim", "vllm"))
            or (name == "--prefill-context-parallel-size" and asked.settings.prefill_context_parallel_size == 1)
        )
        if said:
            continue
        yield item.spelling or name, _TLS if name.startswith("--ssl-") else _REMARKS.get(name, _NO_FIELD)


def _paths(model: str, args: Iterable[str], exists: Callable[[str], bool]) -> Iterator[str]:
    bring = f"a path of this machine; in a pod it is in the image or on the cache volume, {spec.MOUNTED_AT}"
    if model.startswith("/"):
        yield f"spec.model: {model} is {bring}"
    for item in known_flags().read(tuple(args)):
        for value in item.values:
            if _PATH.search(value) or (("." in value or "/" in value) and exists(value)):
                yield f"{item.spelling}: {value} is {bring}"
