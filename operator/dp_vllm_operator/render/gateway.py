"""The gateway of a model: its Deployment, its Service, and what it may ask the API server. Pure."""

import json
from typing import Any, Final

from msgspec import UNSET

from dp_vllm import names
from dp_vllm.spec import AdminApiKeysKey, ApiKeysKey
from dp_vllm.spec.gateway import Gateway
from dp_vllm.spec.references import escaped
from dp_vllm_operator.model import Model
from dp_vllm_operator.render import lost_node
from dp_vllm_operator.settings import ALL_IPV4, Settings

Json = dict[str, Any]
KeysRef = ApiKeysKey | AdminApiKeysKey

GATEWAYS: Final = 2
"""So many are made where the spec leaves the number to others."""
_KEYS: Final = "/etc/dp-vllm/{}"
"""Where the file `keys` of a volume is."""
_ADMIN_SOCKET: Final = "/dev/shm/dp-vllm-admin.sock"  # noqa: S108 - 0600, and nobody else is in the container
"""Every container has this place, also with a read-only root. A volume would make `kubectl drain` ask for a flag."""
_UNHEARD_SECONDS: Final = 10
"""How long it takes until nobody sends a new connection to a gateway that ends."""
_LAST_SECONDS: Final = 5
_SMALL: Final = {"requests": {"cpu": "100m", "memory": "128Mi"}}
"""An autoscaler needs requests. There are no limits: request bodies are held in memory."""


def gateway_name(model: Model) -> str:
    return f"{model.name}-gateway"


def selector(model: Model, component: str) -> Json:
    """The labels that a component's pods have; they never change, for a Deployment's cannot."""
    return {names.MODEL_LABEL: model.name, names.COMPONENT_LABEL: component}


def service(model: Model) -> Json:
    wanted = model.spec.gateway.service
    port = {"name": "http", "port": wanted.port, "protocol": "TCP", "targetPort": "http"}
    return {"type": wanted.type.value, "selector": selector(model, names.GATEWAY), "ports": [port]}


def role_binding(model: Model, settings: Settings) -> Json:
    return {
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": settings.gateway_cluster_role,
        },
        "subjects": [{"kind": "ServiceAccount", "name": gateway_name(model), "namespace": model.namespace}],
    }


def deployment(model: Model, settings: Settings) -> Json:
    """Its spec. Without a number of replicas if the model says none."""
    replicas = model.spec.gateway.replicas
    return ({} if replicas is UNSET else {"replicas": replicas}) | {
        "revisionHistoryLimit": 2,
        "selector": {"matchLabels": selector(model, names.GATEWAY)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": {"labels": model.labels(names.GATEWAY)}, "spec": _pod(model, settings)},
    }


def _pod(model: Model, settings: Settings) -> Json:
    drain_seconds = model.spec.rollout.drain_timeout_seconds
    pod: Json = {
        "serviceAccountName": gateway_name(model),
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": _UNHEARD_SECONDS + drain_seconds + _LAST_SECONDS,
        "topologySpreadConstraints": [
            _spread(model, level) for level in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
        ],
        "tolerations": lost_node.tolerations(),
        "containers": [_container(model, settings)],
    }
    if volumes := [_volume(name, ref) for name, ref in _key_files(model).items()]:
        pod["volumes"] = volumes
    return pod


def _key_files(model: Model) -> dict[str, KeysRef]:
    """The files of keys, by the names of their volumes."""
    refs = {"api-keys": model.spec.api_key_secret_ref, "admin-api-keys": model.spec.admin_api_key_secret_ref}
    return {name: ref for name, ref in refs.items() if ref is not UNSET}


def _volume(name: str, ref: KeysRef) -> Json:
    secret = {"secretName": ref.name, "items": [{"key": ref.key, "path": "keys"}], "optional": True}
    return {"name": name, "secret": secret}


def _container(model: Model, settings: Settings) -> Json:
    spec = model.spec.gateway
    container: Json = {
        "name": names.GATEWAY_CONTAINER,
        "image": settings.gateway_image if spec.image is UNSET else spec.image,
        "args": _args(model, settings),
        "env": [
            {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": names.ADMIN_SOCKET_VARIABLE, "value": _ADMIN_SOCKET},  # for `kubectl exec -- dp-vllm explain`
        ],
        "ports": [
            _port("http", names.DEFAULT_PORT),
            _port("metrics", names.METRICS_PORT),
            _port("peers", names.PEER_PORT),
        ],
        "readinessProbe": _probe("/ready", period_seconds=2, failures=2),
        # Not /health, which says whether a replica is available: to end gateways would bring none back.
        "livenessProbe": _probe("/metrics", period_seconds=20, failures=3),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(_UNHEARD_SECONDS)]}}},
        "resources": _SMALL if spec.resources is UNSET else dict(spec.resources),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if mounts := [{"name": name, "mountPath": _KEYS.format(name), "readOnly": True} for name in _key_files(model)]:
        container["volumeMounts"] = mounts
    return container


def _args(model: Model, settings: Settings) -> list[str]:
    host = ["--host", settings.listen_address] if settings.listen_address != ALL_IPV4 else []
    flags = {"api-keys": "--api-key-file", "admin-api-keys": "--admin-api-key-file"}
    keys = [word for name in _key_files(model) for word in (flags[name], f"{_KEYS.format(name)}/keys")]
    return [
        *("--kubernetes-model", model.name),
        *host,
        *("--port", str(names.DEFAULT_PORT)),
        *("--metrics-port", str(names.METRICS_PORT)),
        *("--peer-port", str(names.PEER_PORT)),
        *("--admin-socket", _ADMIN_SOCKET),
        *("--policy", model.spec.gateway.policy.value),
        *("--prefix-weight", str(model.spec.gateway.prefix_weight)),
        *("--shutdown-timeout", str(model.spec.rollout.drain_timeout_seconds)),
        *("--log-format", "json"),
        *keys,
        *_further_args(model.spec.gateway),
    ]


def _further_args(gateway: Gateway) -> list[str]:
    """For what is not as it is by default: a gateway of an older release may not have these flags."""
    args = []
    if gateway.first_byte_seconds:
        args += ["--first-byte-seconds", str(gateway.first_byte_seconds)]
    if gateway.allowed_origins:
        args += ["--allowed-origins", escaped(json.dumps(gateway.allowed_origins))]
    return args


def _port(name: str, number: int) -> Json:
    return {"name": name, "containerPort": number, "protocol": "TCP"}


def _probe(path: str, *, period_seconds: int, failures: int) -> Json:
    return {
        "httpGet": {"path": path, "port": "metrics", "scheme": "HTTP"},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _spread(model: Model, level: str) -> Json:
    return {
        "maxSkew": 1,
        "topologyKey": level,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector(model, names.GATEWAY)},
    }
