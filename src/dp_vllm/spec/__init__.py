"""The typed DPModel: what a user asks of a cluster. The one definition of its fields, their defaults and descriptions.

The custom resource's schema is made from these types (`dp_vllm.crd`). The descriptions are what `kubectl explain`
shows. Nothing here knows how a cluster is made to match.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dp_vllm.errors import UserError
from dp_vllm.policy import Policy
from dp_vllm.spec import owned_flags, owned_variables
from dp_vllm.spec.cache import MOUNTED_AT, Cache, Claim
from dp_vllm.spec.engine import NO_ACCELERATOR, Engine, EnvVar, Resources
from dp_vllm.spec.errors import explain
from dp_vllm.spec.fields import KeyName, ModelName, Name, Part, ServedName
from dp_vllm.spec.gateway import Gateway, Service, ServiceType
from dp_vllm.spec.rollout import Rollout, Strategy

__all__ = [
    "MOUNTED_AT",
    "NO_ACCELERATOR",
    "AdminApiKeysKey",
    "ApiKeysKey",
    "BadSpec",
    "Cache",
    "Claim",
    "DPModelSpec",
    "Engine",
    "EnvVar",
    "Gateway",
    "HfTokenKey",
    "Policy",
    "Resources",
    "Rollout",
    "Service",
    "ServiceType",
    "Strategy",
    "read",
    "write",
]

MOST_REPLICAS: Final = 1000
"""Of one model."""

_LABELS: Final[dict[str, Any]] = {"type": "object", "additionalProperties": {"type": "string"}}
_TEMPLATE: Final[dict[str, Any]] = {
    "properties": {
        "metadata": {
            "description": "Labels and annotations of replica pods.",
            "type": "object",
            "properties": {
                "labels": {"description": "Labels; the operator's own win."} | _LABELS,
                "annotations": {"description": "Annotations."} | _LABELS,
            },
        },
        "spec": {"description": "A partial pod spec, with any of a pod's fields.", "type": "object"},
    }
}


class BadSpec(UserError):
    """A DPModel's field has a value that is not allowed; the message names the field."""


class HfTokenKey(Part, frozen=True):
    """Where the hub's token is."""

    name: Annotated[Name, Meta(description="Name of the Secret, in the namespace of the DPModel.")]
    key: Annotated[KeyName, Meta(description="Key in the Secret.")] = "token"


class AdminApiKeysKey(Part, frozen=True):
    """Where administrators' API keys are: one a line (`dp_vllm.api_keys`)."""

    name: Annotated[Name, Meta(description="Name of the Secret, in the namespace of the DPModel.")]
    key: Annotated[KeyName, Meta(description="Key in the Secret.")] = "admin-api-keys"


class ApiKeysKey(Part, frozen=True):
    """Where the endpoint's API keys are: one a line (`dp_vllm.api_keys`)."""

    name: Annotated[Name, Meta(description="Name of the Secret, in the namespace of the DPModel.")]
    key: Annotated[KeyName, Meta(description="Key in the Secret.")] = "api-keys"


class DPModelSpec(Part, frozen=True):
    """One model, served by several replicas behind one OpenAI endpoint."""

    model: Annotated[
        ModelName,
        Meta(
            description="The model: its name on the hub, or an absolute path, in the image or on the cache volume, "
            f"which is {MOUNTED_AT}."
        ),
    ]
    served_model_name: Annotated[
        ServedName | UnsetType,
        Meta(description="What clients call the model; `model` if left out."),
    ] = UNSET
    replicas: Annotated[
        int, Meta(description="How many replicas: complete copies of the model, a pod each.", ge=0, le=MOST_REPLICAS)
    ] = 1
    tensor_parallel_size: Annotated[
        int, Meta(description="Over how many accelerators of a replica each layer is spread.", ge=1, le=64)
    ] = 1
    pipeline_parallel_size: Annotated[
        int,
        Meta(
            description="In how many groups a replica's layers are run, each by tensorParallelSize accelerators.",
            ge=1,
            le=64,
        ),
    ] = 1
    engine: Annotated[Engine, Meta(description="The engine of each replica: one vLLM in one pod.")] = Engine()
    cache: Annotated[
        Cache,
        Meta(
            description="Where the model's files are kept: one of the fields, or none of them for each pod's own "
            "temporary disk. The kind of cache cannot be changed."
        ),
    ] = Cache()
    hf_token_secret_ref: Annotated[
        HfTokenKey | UnsetType, Meta(description="Where the hub's token is, for gated models.")
    ] = UNSET
    api_key_secret_ref: Annotated[
        ApiKeysKey | UnsetType,
        Meta(
            description="Where the endpoint's API keys are: a line is `KEY`, `NAME: KEY` or `NAME (admin): KEY`. Once "
            "a key has the mark, only marked ones may change the deployment. While the keys are missing or a line is "
            "wrong at the start, every request is refused; if the field is left out, every request is served."
        ),
    ] = UNSET
    admin_api_key_secret_ref: Annotated[
        AdminApiKeysKey | UnsetType,
        Meta(
            description="Where the keys of administrators are, if not among apiKeySecretRef's: another Secret, or "
            "another key of the same one. Then only these and marked keys may change the deployment, and every "
            "request needs a key."
        ),
    ] = UNSET
    rollout: Annotated[Rollout, Meta(description="How replicas are replaced, and how they end.")] = Rollout()
    gateway: Annotated[Gateway, Meta(description="The gateway in front of the replicas, and its Service.")] = Gateway()
    template: Annotated[
        dict[str, Any] | UnsetType,
        Meta(
            description="A partial pod template for replicas, merged under the operator's own as kubectl's strategic "
            "merge does: lists by name, and the engine's container is `engine`.",
            extra_json_schema=_TEMPLATE,
        ),
    ] = UNSET

    @property
    def accelerators(self) -> int:
        """How many accelerators one replica needs."""
        return (
            0 if self.engine.accelerator == NO_ACCELERATOR else self.tensor_parallel_size * self.pipeline_parallel_size
        )

    @property
    def served_name(self) -> str:
        """What clients call the model."""
        return self.model if self.served_model_name is UNSET else self.served_model_name


def read(spec: object) -> DPModelSpec:
    """The spec of a DPModel as its JSON says it. Raises BadSpec with the field that is wrong."""
    try:
        made = msgspec.convert(spec, DPModelSpec)
    except msgspec.ValidationError as error:
        raise BadSpec(explain(error, DPModelSpec, spec, "spec")) from error
    for problem in _problems(made):
        raise BadSpec(problem)
    return made


def write(spec: DPModelSpec) -> dict[str, Any]:
    """The spec as JSON, without the fields that have their default."""
    return msgspec.json.decode(msgspec.json.encode(spec), type=dict[str, Any])


def _problems(spec: DPModelSpec) -> Iterator[str]:
    """What no type can say. The API server refuses it too (`dp_vllm.crd.rules`), in objects made since the rule."""
    engine = spec.engine
    kinds = msgspec.to_builtins(spec.cache)
    if len(kinds) > 1:
        yield f"spec.cache: {' and '.join(kinds)} exclude each other; keep one of them"
    if refused := owned_flags.refusal(engine.args):
        number, instead = refused
        yield f"spec.engine.args[{number}]: {engine.args[number]!r} is not allowed; {instead}"
    if refused := owned_variables.refusal(engine.env):
        number, instead = refused
        yield f"spec.engine.env[{number}]: {engine.env[number]['name']} is not allowed; {instead}"
    if engine.user == 0:
        yield "spec.engine.runAsUser: 0 is root, which no engine runs as; it must be a user's id, or -1"
