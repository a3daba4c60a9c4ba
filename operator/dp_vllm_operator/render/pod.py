"""The replica pod: one engine, and how it is watched and ended. Pure.

A template has three layers: what a user may want otherwise (`_own`), the user's template, and what makes the pod a
replica (`_fixed`). What the fields of the spec say is laid over the template, for they are the plainer words.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from msgspec import UNSET, UnsetType

from dp_vllm import names
from dp_vllm.engine.command import IMAGE, Command, Order, Sizes, container_command, flags_in, patience
from dp_vllm.spec import NO_ACCELERATOR, BadSpec, HfTokenKey, owned_variables
from dp_vllm.spec.references import escaped, unexpanded
from dp_vllm_operator.model import Model
from dp_vllm_operator.render import lost_node, volumes
from dp_vllm_operator.render.template import Template, merge
from dp_vllm_operator.revision import UserPart

Json = dict[str, Any]

TEMPLATE_PATH: Final = "spec.template"
_PROGRAM: Final = ["python3", "-I", f"{volumes.PROGRAMS}/engine_life.py"]
END_SECONDS: Final = 15
"""From SIGTERM, or from the wish to restart a sick engine, to SIGKILL."""
_STARTUP_PERIOD_SECONDS: Final = 2
_HEALTH_SECONDS: Final = 5

_INSTEAD: Final = {
    "image": "use spec.engine.image",
    "args": "use spec.engine.args",
}
"""What a template cannot say of the engine's container, and what to do instead."""


def pod_name(model: str, revision: int, number: int) -> str:
    return f"{model}-{revision}-{number}"


def pod(template: Mapping[str, Any], model: Model, revision: int, number: int) -> Json:
    """A replica, made from a stored template."""
    metadata = template["metadata"]
    labels = metadata.get("labels", {}) | model.labels(names.REPLICA) | {names.REVISION_LABEL: str(revision)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(model.name, revision, number),
            "namespace": model.namespace,
            "labels": labels,
            "annotations": metadata.get("annotations", {}),
            "ownerReferences": [model.owner],
        },
        "spec": template["spec"],
    }


def pod_template(name: str, part: UserPart) -> Template:
    """The template of a model's replicas: what a revision stores. Raises BadSpec if the user's part does not fit."""
    given = {} if part.template is UNSET else {key: value for key, value in part.template.items() if value is not None}
    template = merge(_own(part), given, TEMPLATE_PATH)
    _check(template)
    for layer in (_told(part), _fixed(name, part)):
        template = merge(template, layer, TEMPLATE_PATH)
    spec = template["spec"]
    spec["tolerations"] = _tolerations(spec.get("tolerations", []))
    engine, hidden = engine_of(template), hub_token_names(part.hf_token_secret_ref)
    # A variable can refer to those before it only.
    engine["env"] = sorted(engine["env"], key=lambda variable: variable["name"] in hidden)
    return template


def hub_token_names(ref: HfTokenKey | UnsetType) -> tuple[str, ...]:
    """The variables that hold the hub's token, if the spec names a Secret for it."""
    return () if ref is UNSET else ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def engine_of(template: Mapping[str, Any]) -> Json:
    """The engine's container in a template."""
    found: Json = next(c for c in template["spec"]["containers"] if c["name"] == names.ENGINE_CONTAINER)
    return found


def _check(template: Template) -> None:
    engine: Json = next((c for c in template["spec"].get("containers", ()) if c["name"] == names.ENGINE_CONTAINER), {})
    path = f"{TEMPLATE_PATH}.spec.containers[{names.ENGINE_CONTAINER}]"
    for field, instead in _INSTEAD.items():
        if field in engine:
            raise BadSpec(f"{path}.{field} is not allowed; {instead}")
    if refused := owned_variables.refusal(engine.get("env", ())):
        number, instead = refused
        raise BadSpec(f"{path}.env: {engine['env'][number]['name']} is not allowed; {instead}")


# What a template may say otherwise


def _own(part: UserPart) -> Template:
    return {
        "metadata": {
            "annotations": {
                # Otherwise the cluster autoscaler keeps a node for ever: nothing that it knows would remake the pod.
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "true",
                "kubectl.kubernetes.io/default-container": names.ENGINE_CONTAINER,
            }
        },
        "spec": {
            "containers": [_own_engine(part)],
            "volumes": volumes.own_volumes(part),
            "securityContext": _security(part),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,  # vLLM takes VLLM_PORT of a Service called vllm for its own
        },
    }


def _own_engine(part: UserPart) -> Json:
    return {
        "name": names.ENGINE_CONTAINER,
        "env": _env(volumes.variables(part) | patience(part.engine.startup_timeout_seconds)),
        "volumeMounts": volumes.own_mounts(part),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _security(part: UserPart) -> Json:
    user = part.engine.run_as_user
    return {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        # The kubelet would change the owner of every file, at each start.
        "fsGroupChangePolicy": "OnRootMismatch",
    } | ({} if user is None else {"runAsUser": user, "fsGroup": user})


# What the spec's fields say


def _told(part: UserPart) -> Template:
    engine: Json = {"name": names.ENGINE_CONTAINER, "env": [dict(variable) for variable in part.engine.env]}
    if part.engine.resources is not UNSET:
        engine["resources"] = dict(part.engine.resources)
    return {"spec": {"containers": [engine]}}


# What no template changes


def _fixed(name: str, part: UserPart) -> Template:
    restart = {"annotations": {names.RESTART_ANNOTATION: part.restart}} if part.restart else {}
    return {
        "metadata": restart,
        "spec": {
            "containers": [_fixed_engine(part)],
            "volumes": volumes.fixed_volumes(name, part),
            "restartPolicy": "Always",
            # So the engine is not process 1, for which SIGTERM means nothing until it asks for it.
            "shareProcessNamespace": True,
            "terminationGracePeriodSeconds": part.drain_timeout_seconds + END_SECONDS,
        },
    }


def _fixed_engine(part: UserPart) -> Json:
    command = _command(part)
    fixed: Json = {
        "name": names.ENGINE_CONTAINER,
        "image": part.image,
        "args": list(command.argv),
        "env": [*_env(command.variables), *_hub_token(part)],
        "ports": [{"name": "http", "containerPort": names.ENGINE_PORT, "protocol": "TCP"}],
        "volumeMounts": volumes.fixed_mounts(part),
        "lifecycle": {"preStop": _whole(exec=_exec("pre-stop", "--drain-timeout-seconds", part.drain_timeout_seconds))},
        **_probes(part),
    }
    if part.engine.accelerator != NO_ACCELERATOR:
        amount = str(_sizes(part).gpus)
        fixed["resources"] = {kind: {part.engine.accelerator: amount} for kind in ("limits", "requests")}
    return fixed


def _command(part: UserPart) -> Command:
    """Names are literal; the user's flags expand `$(NAME)` as in any container, but never to the hub's token."""
    words = tuple(unexpanded(word, hub_token_names(part.hf_token_secret_ref)) for word in part.engine.args)
    served = part.served_model_name
    if served is UNSET:
        # An engine that asks no hub would give the model's path in the cache as the metrics' model_name.
        served = part.model if "HF_HUB_OFFLINE" in volumes.variables(part) else ""
    model, served = escaped(part.model), escaped(served)
    order = Order(IMAGE, model, words, flags_in(words), sizes=_sizes(part), served=served)
    return container_command(order, f"{part.listen_address}:{names.ENGINE_PORT}")


def _sizes(part: UserPart) -> Sizes:
    return Sizes(tensor=part.tensor_parallel_size, pipeline=part.pipeline_parallel_size)


def _probes(part: UserPart) -> Json:
    """A start may take long; a replica that stops answering gets no requests soon; one that hangs ends.

    The liveness program is patient by itself: it fails when it is sure, so its first failure counts.
    """
    health = {
        "httpGet": {"path": "/health", "port": names.ENGINE_PORT, "scheme": "HTTP"},
        "timeoutSeconds": _HEALTH_SECONDS,
    }
    attempts = math.ceil(part.engine.startup_timeout_seconds / _STARTUP_PERIOD_SECONDS)
    return {
        "startupProbe": _whole(
            **health,
            periodSeconds=_STARTUP_PERIOD_SECONDS,
            failureThreshold=attempts,
            terminationGracePeriodSeconds=END_SECONDS,
        ),
        "readinessProbe": _whole(**health, periodSeconds=5, failureThreshold=3),
        "livenessProbe": _whole(
            exec=_exec("live", "--hang-timeout-seconds", part.engine.hang_timeout_seconds),
            periodSeconds=30,
            timeoutSeconds=20,
            failureThreshold=1,
            terminationGracePeriodSeconds=END_SECONDS,
        ),
    }


def _exec(*words: str | int) -> Json:
    return {"command": [*_PROGRAM, *map(str, words)]}


def _whole(**fields: Any) -> Json:
    """Something that a template's own is not merged with."""
    return {"$patch": "replace", **fields}


def _env(variables: Mapping[str, str]) -> list[Json]:
    return [{"name": name, "value": value} for name, value in variables.items()]


def _hub_token(part: UserPart) -> list[Json]:
    if part.hf_token_secret_ref is UNSET:
        return []
    secret = {"name": part.hf_token_secret_ref.name, "key": part.hf_token_secret_ref.key}
    names_of_it = hub_token_names(part.hf_token_secret_ref)
    return [{"name": name, "valueFrom": {"secretKeyRef": secret}} for name in names_of_it]


def _tolerations(given: Any) -> list[Json]:
    """The user's, and those for a lost node unless there are some."""
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise BadSpec(f"{TEMPLATE_PATH}.spec.tolerations must be a list of mappings")
    return lost_node.tolerations(given)
