"""How replicas are replaced, and how they end."""

import enum
from typing import Annotated

from msgspec import Meta

from dp_vllm.spec.fields import Part, Seconds


class Strategy(enum.Enum):
    """How replicas are replaced when the spec changes."""

    AUTO = "Auto"
    SURGE = "Surge"
    DRAIN = "Drain"


class Rollout(Part, frozen=True):
    """How replicas are replaced when the spec changes, and how they end."""

    strategy: Annotated[
        Strategy,
        Meta(
            description="Surge starts a new replica before an old one ends; Drain ends one first; Auto surges, and "
            "drains where there are no accelerators for one more."
        ),
    ] = Strategy.AUTO
    drain_timeout_seconds: Annotated[
        Seconds,
        Meta(description="How long a replica that is to end may go on with the requests that it has."),
    ] = 300
    surge_timeout_seconds: Annotated[
        Seconds,
        Meta(
            description="Auto: how long a new replica may wait for accelerators before an old one is drained. Raise it "
            "where a cluster autoscaler adds nodes."
        ),
    ] = 60
    progress_deadline_seconds: Annotated[
        int,
        Meta(
            description="A new revision that is not Ready after so long stops the rollout; the old replicas serve on.",
            ge=1,
            le=86_400,
        ),
    ] = 3600
    paused: Annotated[
        bool, Meta(description="Whether replicas are left as they are when the spec changes. Scaling goes on.")
    ] = False
