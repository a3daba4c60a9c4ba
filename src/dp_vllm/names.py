"""Names that several programs must agree on: ports, environment variables, headers."""

from typing import Final

DEFAULT_PORT: Final = 8000

API_KEY_VARIABLE: Final = "DP_VLLM_API_KEY"
"""API keys of the endpoint, separated by white space. `VLLM_API_KEY` is read too, and removed from every engine."""

ADMIN_API_KEY_VARIABLE: Final = "DP_VLLM_ADMIN_API_KEY"
"""Keys that may change the whole deployment, separated by white space."""

ADMIN_SOCKET_VARIABLE: Final = "DP_VLLM_ADMIN_SOCKET"
"""Where `dp-vllm explain` asks if no flag says it: set in the containers of gateways."""

REASON_HEADER: Final = "x-dp-vllm-reason"
"""Tells a client why that replica answered."""

REPLICA_HEADER: Final = "x-dp-vllm-replica"
"""Response header: the name of the replica that answered."""

PRIORITY_HEADER: Final = "x-dp-vllm-priority"
"""Request header: a whole number, lower goes first while requests wait in the gateway."""

WAIT_HEADER: Final = "x-dp-vllm-wait"
"""Request header: how many seconds the client is ready to wait for a first replica."""

# Kubernetes

API_GROUP: Final = "dpvllm.io"
API_VERSION: Final = "v1alpha1"
KIND: Final = "DPModel"
PLURAL: Final = "dpmodels"

MODEL_LABEL: Final = "dpvllm.io/model"
"""On everything that belongs to a DPModel: its name."""

REVISION_LABEL: Final = "dpvllm.io/revision"
"""On a replica pod: the number of the revision that it was made from."""

NAME_LABEL: Final = "app.kubernetes.io/name"
INSTANCE_LABEL: Final = "app.kubernetes.io/instance"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"

PRODUCT: Final = "dp-vllm"
OPERATOR: Final = "dp-vllm-operator"
"""Value of the managed-by label, and the operator's field manager."""

REPLICA: Final = "replica"
GATEWAY: Final = "gateway"
DOWNLOAD: Final = "download"
"""Values of the component label."""

RESTART_ANNOTATION: Final = "dpvllm.io/restart"
"""On a DPModel: another value makes a new revision, and so a rollout of the same spec."""

UNDO_ANNOTATION: Final = "dpvllm.io/undo"
"""On a DPModel: the number of the revision to go back to, for as long as the annotation stands."""

RECONCILE_ANNOTATION: Final = "dpvllm.io/reconcile"
"""On a DPModel: `disabled` makes the operator leave it alone."""

ENGINE_CONTAINER: Final = "engine"
GATEWAY_CONTAINER: Final = "gateway"
ENGINE_PORT: Final = 8000
METRICS_PORT: Final = 9000
"""The gateway's port for /metrics, /health and /ready, without a key."""
PEER_PORT: Final = 9001
"""Where the gateways of one DPModel tell each other what they do."""
