"""The engine of each replica, and what its container gets."""

from typing import Annotated, Any, Final, Required, TypedDict

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dp_vllm.spec.fields import ATOMIC, Amounts, Bytes, Image, Part, listed_by, text

NO_ACCELERATOR: Final = "none"


class EnvVar(TypedDict, total=False):
    """An environment variable."""

    name: Required[
        Annotated[str, text(r"^[!-<>-~]+\Z", "the name of a variable, without blanks and `=`", 256),
                  Meta(description="Name of the variable.")]
    ]  # fmt: skip
    value: Annotated[str, Meta(description="Its value; $(NAME) stands for another variable.", max_length=65_536)]
    valueFrom: Annotated[
        dict[str, Any],
        Meta(description="Where its value comes from, as in a container: secretKeyRef, configMapKeyRef, fieldRef, ..."),
    ]


class Resources(TypedDict, total=False):
    """CPU, memory and other resources of a container."""

    limits: Annotated[Amounts, Meta(description="The most that it may use, as {cpu: 16, memory: 64Gi}.")]
    requests: Annotated[Amounts, Meta(description="What a node must have free for it; `limits` where left out.")]


class Engine(Part, frozen=True):
    """The engine of each replica: one vLLM in one pod."""

    image: Annotated[
        Image | UnsetType, Meta(description="Image with vLLM. If left out, the operator's default on that day.")
    ] = UNSET
    args: Annotated[
        tuple[Annotated[str, Meta(max_length=8192)], ...],
        Meta(
            description='Further flags of `vllm serve`, a word an item: [--max-model-len, "8192"]. Flags that have a '
            "field of their own are refused. $(NAME) stands for a variable of `env`, never for the token of "
            "hfTokenSecretRef.",
            max_length=128,
            extra_json_schema=ATOMIC,
        ),
    ] = ()
    env: Annotated[
        tuple[EnvVar, ...],
        Meta(description="Environment variables of the engine.", max_length=128, extra_json_schema=listed_by("name")),
    ] = ()
    resources: Annotated[
        Resources | UnsetType,
        Meta(description="CPU and memory of the engine. Its accelerators are added, and need not be named."),
    ] = UNSET
    accelerator: Annotated[
        str,
        text(
            r"^([a-z0-9][-.a-z0-9]*/[a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?|none)\Z",
            "an extended resource, as nvidia.com/gpu or amd.com/gpu, or none",
            253,
        ),
        Meta(
            description="The extended resource of which a replica gets tensorParallelSize * pipelineParallelSize, "
            "or none for engines that need no accelerator."
        ),
    ] = "nvidia.com/gpu"
    user: Annotated[
        int,
        Meta(
            description="User id of the engine, and group id of its volumes. -1 lets the platform choose, as OpenShift "
            "demands. 0, root, is refused.",
            ge=-1,
            le=2_147_483_647,
        ),
    ] = msgspec.field(default=2000, name="runAsUser")
    startup_timeout_seconds: Annotated[
        int,
        Meta(
            description="How long a start may take (download, load, compile) until it is given up and begun anew.",
            ge=1,
            le=86_400,
        ),
    ] = 3600
    hang_timeout_seconds: Annotated[
        int,
        Meta(
            description="An engine that has requests and makes no progress for so long is restarted.", ge=30, le=86_400
        ),
    ] = 180
    shm_size: Annotated[
        Bytes, Meta(description="The most that /dev/shm may hold. What it holds counts as the engine's memory.")
    ] = "10Gi"

    @property
    def run_as_user(self) -> int | None:
        """The user id of the engine; None if the platform chooses it."""
        return None if self.user < 0 else self.user
