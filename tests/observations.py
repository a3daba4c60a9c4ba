"""What an operator may find of a model, in short words, for tests of what its status says."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import fleets
import models
from hypothesis import strategies as st

from dp_vllm_operator.model import Model
from dp_vllm_operator.observed import Download, DownloadState, Gateway, Observed
from dp_vllm_operator.plan import RolloutState
from dp_vllm_operator.progress import LOADING_PHASES, Progress
from dp_vllm_operator.trouble import Trouble

GATEWAY: Final = Gateway(desired=2, available=2)


def observed(pods: str = "", rollout: RolloutState = RolloutState.DONE, **fields: Any) -> Observed:
    """These pods (as `fleets.fleet`), of which revision 2 is wanted, and gateways that serve."""
    values: dict[str, Any] = {"revision": 2, "gateway": GATEWAY, "rollout_message": "as planned", **fields}
    return Observed(replicas=fleets.fleet(pods), rollout=rollout, **values)


def model(replicas: int = 2, *, status: Mapping[str, Any] | None = None, generation: int = 1, **fields: Any) -> Model:
    return replace(models.model(replicas=replicas, **fields), status=status or {}, generation=generation)


def trouble(reason: str, message: str = "it is so", *, person: bool = True) -> Trouble:
    return Trouble(reason, message, person)


def condition(written: Mapping[str, Any], kind: str) -> dict[str, Any]:
    (found,) = [one for one in written["conditions"] if one["type"] == kind]
    return dict(found)


def said(written: Mapping[str, Any], kind: str) -> tuple[str, str]:
    """A condition's status and reason."""
    found = condition(written, kind)
    return found["status"], found["reason"]


_states = st.sampled_from([f"{revision}:{kind}" for revision in (1, 2) for kind in fleets.STATES])
_troubles = st.builds(
    Trouble,
    st.sampled_from(["CrashLoopBackOff", "InsufficientGPUs", "WaitingForQuota", "SecretNotFound"]),
    st.text(max_size=10),
    st.booleans(),
)
_progress = st.builds(
    Progress, st.sampled_from(LOADING_PHASES), st.just("doing so"), st.none() | st.sampled_from(range(0, 101, 10))
)
_gateways = st.none() | st.builds(
    Gateway, desired=st.integers(0, 2), available=st.integers(0, 2), trouble=st.none() | _troubles
)
_downloads = st.builds(
    Download,
    state=st.sampled_from(DownloadState),
    percent=st.none() | st.sampled_from(range(0, 101, 10)),
    message=st.just("it goes on"),
    trouble=st.none() | _troubles,
)


@st.composite
def any_observed(draw: st.DrawFn) -> Observed:
    """Everything that may come together, and more."""
    pods = draw(st.lists(_states, max_size=5))
    names = [replica.name for replica in fleets.fleet(" ".join(pods))]
    some = st.sets(st.sampled_from(names)) if names else st.just(set[str]())
    return observed(
        " ".join(pods),
        draw(st.sampled_from(RolloutState)),
        troubles={name: draw(_troubles) for name in sorted(draw(some))},
        progress={name: draw(_progress) for name in sorted(draw(some))},
        revision=draw(st.sampled_from([None, 1, 2])),
        ready_revision=draw(st.sampled_from([None, 1, 2])),
        gateway=draw(_gateways),
        download=draw(_downloads),
        orphans=fleets.fleet(draw(st.sampled_from(["", "1:ready", "1:pending 1:failed"]))),
        conflicts=draw(st.sampled_from([(), ("services/m",), ("configmaps/m-engine-life",)])),
        refused=draw(st.none() | _troubles),
        undo_error=draw(st.sampled_from(["", "there is no revision 7"])),
    )


any_model = st.builds(
    model,
    st.integers(0, 3),
    annotations=st.sampled_from([{}, {"dpvllm.io/reconcile": "disabled"}]),
    generation=st.integers(1, 3),
)
