"""The status of a DPModel: what the operator has found, for people and for `kubectl wait`. Only its types."""

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, UnsetType

from dp_vllm.spec.fields import ATOMIC, Part, listed_by

MOST_REPLICAS: Final = 32
"""How many replicas are told about. A status is read and sent as a whole: it must stay small."""

Count = Annotated[int, Meta(ge=0)]
Text = Annotated[str, Meta(max_length=4096)]
Revision = Annotated[int, Meta(ge=1)]


class Condition(Part, frozen=True):
    """One thing that is true or not of a DPModel, and why."""

    type: Annotated[
        str,
        Meta(
            description="Ready: the endpoint answers and all replicas that are asked for are ready. Available: at "
            "least one serves. Progressing: a first start, a rollout or a scaling goes on. Degraded: a replica needs a "
            "person.",
            min_length=1,
            max_length=316,
        ),
    ]
    status: Annotated[Literal["True", "False", "Unknown"], Meta(description="Whether it is true.")]
    reason: Annotated[
        str,
        Meta(description="Why, in one word.", pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?\Z", max_length=1024),
    ]
    message: Annotated[str, Meta(description="Why, in words, and what can be done.", max_length=32_768)]
    last_transition_time: Annotated[
        str, Meta(description="When `status` last changed.", extra_json_schema={"format": "date-time"})
    ]
    observed_generation: Annotated[
        Count | UnsetType,
        Meta(description="The metadata.generation that this was found for; one below the present is out of date."),
    ] = UNSET


class ReplicaStatus(Part, frozen=True):
    """What one replica does at the moment."""

    name: Annotated[str, Meta(description="Name of its pod.", max_length=253)]
    phase: Annotated[str, Meta(description="What it does, in one word, as Loading or Ready.", max_length=253)]
    progress: Annotated[
        Annotated[int, Meta(ge=0, le=100)] | UnsetType, Meta(description="How far the phase is, in percent.")
    ] = UNSET
    message: Annotated[
        Text | UnsetType,
        Meta(description="What it waits for or died of, and what can be done."),
    ] = UNSET


class Status(Part, frozen=True):
    """What the operator has found. Nobody else writes it."""

    observed_generation: Annotated[
        Count | UnsetType, Meta(description="The metadata.generation that all of this is about.")
    ] = UNSET
    replicas: Annotated[Count | UnsetType, Meta(description="How many replicas there are, ready or not.")] = UNSET
    ready_replicas: Annotated[Count | UnsetType, Meta(description="How many of them are ready to serve.")] = UNSET
    updated_replicas: Annotated[
        Count | UnsetType, Meta(description="How many of them are of the revision that is asked for.")
    ] = UNSET
    available_replicas: Annotated[
        Count | UnsetType, Meta(description="How many of them serve, and have been ready for some seconds.")
    ] = UNSET
    selector: Annotated[
        Text | UnsetType, Meta(description="Label selector of the replicas' pods, for autoscalers.")
    ] = UNSET
    endpoint: Annotated[Text | UnsetType, Meta(description="Address of the OpenAI endpoint within the cluster.")] = (
        UNSET
    )
    revision: Annotated[Revision | UnsetType, Meta(description="The revision that the replicas are to have.")] = UNSET
    ready_revision: Annotated[
        Revision | UnsetType, Meta(description="The last revision of which all replicas were ready.")
    ] = UNSET
    conditions: Annotated[
        Annotated[tuple[Condition, ...], Meta(max_length=16)] | UnsetType,
        Meta(
            description="Ready, Available, Progressing and Degraded, with reasons.",
            extra_json_schema=listed_by("type"),
        ),
    ] = UNSET
    replica_statuses: Annotated[
        Annotated[tuple[ReplicaStatus, ...], Meta(max_length=MOST_REPLICAS)] | UnsetType,
        Meta(
            description=f"What the replicas do, at most {MOST_REPLICAS} of them; those that are not ready come first.",
            extra_json_schema=ATOMIC,
        ),
    ] = UNSET
