"""The gateway in front of the replicas."""

import enum
from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from dp_vllm.policy import DEFAULT_POLICY, PREFIX_WEIGHT, Policy
from dp_vllm.spec.engine import Resources
from dp_vllm.spec.fields import ATOMIC, Image, Part, Seconds, text

Origin = Annotated[
    str,
    text(
        r"^([*]|null|[a-zA-Z][-+.a-zA-Z0-9]*://[^\x00-\x20\x7f/]+)\Z",
        "`*` or an origin without a path, as https://chat.example.org",
        256,
    ),
]


class ServiceType(enum.Enum):
    """Types of Service."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


class Service(Part, frozen=True):
    """The Service that clients use. It has the name of the DPModel."""

    type: Annotated[ServiceType, Meta(description="Type of the Service.")] = ServiceType.CLUSTER_IP
    port: Annotated[int, Meta(description="Port of the Service.", ge=1, le=65535)] = 80


class Gateway(Part, frozen=True):
    """The gateway in front of the replicas: an OpenAI endpoint that sends each request to one of them."""

    replicas: Annotated[
        Annotated[int, Meta(ge=1, le=64)] | UnsetType,
        Meta(
            description="How many gateways. If left out, two are made and the number is left alone after: it may be an "
            "autoscaler's."
        ),
    ] = UNSET
    image: Annotated[
        Image | UnsetType, Meta(description="Image of the gateway; that of the operator's release if left out.")
    ] = UNSET
    policy: Annotated[
        Policy,
        Meta(
            description="How a request's replica is chosen. `prefix`: where the least has to be waited for, less what "
            "is saved because the prompt's beginning is in the replica's cache. `least-load`: the one with the least "
            "to do. `round-robin`: each in turn. `power-of-two`: the better of two chosen by chance. `session`: always "
            "the same one for an X-Session-Id header, `prompt_cache_key` or `user`. `consistent-hash`: the same one "
            "for prompts that begin alike, unless it has too much to do."
        ),
    ] = DEFAULT_POLICY
    prefix_weight: Annotated[
        int,
        Meta(
            description="With the policy `prefix`: how many seconds of waiting a second of saved prefill is worth.",
            ge=0,
            le=1000,
        ),
    ] = int(PREFIX_WEIGHT)
    first_byte_seconds: Annotated[
        Seconds,
        Meta(
            description="How long an answer's first byte may take, in the engine's queue too. 0: 600 s for a stream, "
            "and no limit for an answer that is not streamed, whose first byte comes with its last."
        ),
    ] = 0
    allowed_origins: Annotated[
        tuple[Origin, ...],
        Meta(
            description="Web pages that may use the endpoint (CORS), by their origins; `*` for all. None if left out, "
            "as in vLLM. What engines say of it does not count.",
            max_length=64,
            extra_json_schema=ATOMIC,
        ),
    ] = ()
    service: Annotated[Service, Meta(description="The Service that clients use. It has the name of the DPModel.")] = (
        Service()
    )
    resources: Annotated[Resources | UnsetType, Meta(description="CPU and memory of each gateway.")] = UNSET
