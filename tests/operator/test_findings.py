"""Which reason a person is shown: what is found of a model, and the conditions that come of it."""

import itertools
from typing import Any

import fleets
import pytest
from fleets import NOW
from observations import condition, model, observed, said, trouble

from dp_vllm_operator.model import Model
from dp_vllm_operator.observed import Download, DownloadState, Gateway, Observed
from dp_vllm_operator.plan import RolloutState
from dp_vllm_operator.progress import Progress
from dp_vllm_operator.status import status

DISABLED = {"dpvllm.io/reconcile": "disabled"}

AVAILABLE = ("True", "ReplicasAvailable")
NOT_AVAILABLE = ("False", "NoReplicaReady")
COMPLETE = ("False", "Complete")
SCALING = ("True", "Scaling")
FINE = ("False", "AsExpected")


def broken(reason: str) -> tuple[str, str]:
    return "True", reason


CASES: list[tuple[str, Model, Observed, tuple[str, str], tuple[str, str], tuple[str, str], tuple[str, str], str]] = [
    # what, model, observed; Ready, Available, Progressing, Degraded; words of Ready's message
    ("all serve", model(), observed("2:ready*2"),
     ("True", "AllReplicasReady"), AVAILABLE, COMPLETE, FINE, "2 of 2 replicas are ready"),
    ("none is wanted", model(0), observed(),
     ("True", "ScaledToZero"), ("False", "ScaledToZero"), COMPLETE, FINE, "503"),
    ("nothing is there yet", model(), observed("", RolloutState.FIRST_START, gateway=None),
     ("False", "ReplicasStarting"), ("False", "GatewayNotReady"), ("True", "FirstStart"), FINE, "2 more to be made"),
    ("one starts", model(), observed("2:ready 2:starting", RolloutState.SCALING,
                                     progress={"m-2-1": Progress("Loading", "loading weights", 40)}),
     ("False", "Loading"), AVAILABLE, SCALING, FINE, "1 of 2 replicas are ready; m-2-1: loading weights, 40 %"),
    ("the last one tells", model(), observed("2:starting*2", RolloutState.FIRST_START,
                                            progress={"m-2-0": Progress("Loading", "loading weights", 40),
                                                      "m-2-1": Progress("Downloading", "downloading the model")}),
     ("False", "Downloading"), NOT_AVAILABLE, ("True", "FirstStart"), FINE, "m-2-1: downloading the model"),
    ("one does not answer", model(), observed("2:ready 2:unready", RolloutState.SCALING,
                                              progress={"m-2-1": Progress("NotReady", "no answer")}),
     ("False", "ReplicasNotReady"), AVAILABLE, SCALING, FINE, "m-2-1: no answer"),
    ("a crash loop", model(), observed("2:ready 2:starting", RolloutState.SCALING,
                                       troubles={"m-2-1": trouble("CrashLoopBackOff", "exit code 2")}),
     ("False", "CrashLoopBackOff"), AVAILABLE, SCALING, broken("CrashLoopBackOff"), "m-2-1: exit code 2"),
    ("what passes", model(), observed("2:ready 2:starting", RolloutState.SCALING,
                                      troubles={"m-2-1": trouble("Restarted", person=False)}),
     ("False", "Restarted"), AVAILABLE, SCALING, FINE, "m-2-1: it is so"),
    ("a dead one waits for its replacement", model(), observed("2:ready", RolloutState.SCALING,
                                                               troubles={"m-2-1": trouble("Evicted", person=False)}),
     ("False", "Evicted"), AVAILABLE, SCALING, FINE, "m-2-1: it is so"),
    ("several have the same", model(3), observed("2:starting*3", RolloutState.FIRST_START, troubles={
        f"m-2-{number}": trouble("ImagePullBackOff") for number in range(3)}),
     ("False", "ImagePullBackOff"), NOT_AVAILABLE, ("True", "FirstStart"), broken("ImagePullBackOff"),
     "m-2-0 (and 2 more like it): it is so"),
    ("rolling", model(), observed("1:ready 2:ready 2:starting", RolloutState.ROLLING),
     ("False", "RollingOut"), AVAILABLE, ("True", "RollingOut"), FINE, "1 of 2 replicas are ready; as planned"),
    ("rolling without room", model(), observed("1:ready*2 2:blocked", RolloutState.ROLLING,
                                               troubles={"m-2-2": trouble("InsufficientGPUs")}),
     ("False", "RollingOut"), AVAILABLE, ("True", "RollingOut"), FINE, "as planned"),
    ("rolling to what crashes", model(), observed("1:ready*2 2:starting", RolloutState.ROLLING,
                                                  troubles={"m-2-2": trouble("OOMKilled")}),
     ("False", "OOMKilled"), AVAILABLE, ("True", "RollingOut"), broken("OOMKilled"), "m-2-2"),
    ("no room at all", model(1), observed("1:ready 2:blocked", RolloutState.SURGE_UNSCHEDULABLE,
                                          troubles={"m-2-1": trouble("InsufficientGPUs")}),
     ("False", "SurgeUnschedulable"), AVAILABLE, ("False", "SurgeUnschedulable"), broken("SurgeUnschedulable"),
     "as planned"),
    ("too few GPUs", model(), observed("2:ready 2:blocked", RolloutState.SCALING,
                                       troubles={"m-2-1": trouble("InsufficientGPUs")}),
     ("False", "InsufficientGPUs"), AVAILABLE, SCALING, broken("InsufficientGPUs"), "m-2-1: it is so"),
    ("too few GPUs beside orphans", model(), observed("2:ready 2:blocked", RolloutState.SCALING,
                                                      troubles={"m-2-1": trouble("InsufficientGPUs")},
                                                      orphans=fleets.fleet("1:ready*2")),
     ("False", "InsufficientGPUs"), AVAILABLE, SCALING, broken("InsufficientGPUs"),
     "hold 2 nvidia.com/gpu: m-1-0, m-1-1; delete them"),
    ("orphans", model(), observed("2:ready*2", orphans=fleets.fleet("1:ready 1:ending 1:failed")),
     ("True", "OrphanedPods"), AVAILABLE, COMPLETE, broken("OrphanedPods"), "hold 1 nvidia.com/gpu: m-1-0; delete"),
    ("waiting for quota", model(1), observed("2:gated", RolloutState.WAITING_FOR_QUOTA,
                                             troubles={"m-2-0": trouble("WaitingForQuota", person=False)}),
     ("False", "WaitingForQuota"), NOT_AVAILABLE, ("True", "WaitingForQuota"), FINE, "m-2-0"),
    ("stalled, and nobody knows why", model(), observed("1:ready*2 2:late", RolloutState.STALLED),
     ("False", "RolloutStalled"), AVAILABLE, ("False", "RolloutStalled"), broken("RolloutStalled"), "as planned"),
    ("stalled, and the cause is known", model(), observed("1:ready*2 2:late", RolloutState.STALLED,
                                                          troubles={"m-2-2": trouble("ImagePullBackOff")}),
     ("False", "ImagePullBackOff"), AVAILABLE, ("False", "RolloutStalled"), broken("ImagePullBackOff"), "m-2-2"),
    ("paused with nothing to do", model(), observed("2:ready*2", RolloutState.PAUSED),
     ("True", "AllReplicasReady"), AVAILABLE, ("False", "Paused"), FINE, "2 of 2"),
    ("paused", model(), observed("1:ready*2", RolloutState.PAUSED),
     ("False", "Paused"), AVAILABLE, ("False", "Paused"), FINE, "0 of 2 replicas are ready; as planned"),
    ("disabled", model(annotations=DISABLED), observed("2:ready 2:starting", RolloutState.SCALING),
     ("False", "Disabled"), AVAILABLE, ("False", "Disabled"), FINE, "leaves this model alone"),
    ("disabled, and all serve", model(annotations=DISABLED), observed("2:ready*2"),
     ("True", "Disabled"), AVAILABLE, ("False", "Disabled"), FINE, "2 of 2 replicas are ready; the operator leaves"),
    ("refused", model(), observed("1:ready*2", revision=None, refused=trouble("InvalidTemplate", "server's words")),
     ("False", "InvalidTemplate"), AVAILABLE, ("False", "InvalidTemplate"), broken("InvalidTemplate"),
     "server's words"),
    ("refused, and the old one serves on", model(), observed("2:ready*2", refused=trouble("InvalidTemplate")),
     ("False", "InvalidTemplate"), AVAILABLE, ("False", "InvalidTemplate"), broken("InvalidTemplate"), "it is so"),
    ("a child's name is taken", model(), observed("2:ready*2", conflicts=("poddisruptionbudgets/m-replicas",)),
     ("True", "NameConflict"), AVAILABLE, COMPLETE, broken("NameConflict"), "poddisruptionbudgets/m-replicas"),
    ("the Service's name is taken", model(), observed("2:ready*2", conflicts=("services/m",)),
     ("False", "NameConflict"), ("False", "GatewayNotReady"), COMPLETE, broken("NameConflict"), "services/m"),
    ("no revision to go back to", model(), observed("2:ready*2", undo_error="there is no revision 7"),
     ("True", "UndoFailed"), AVAILABLE, COMPLETE, broken("UndoFailed"), "there is no revision 7"),
    ("the gateway is not there", model(), observed("2:ready*2", gateway=None),
     ("False", "GatewayNotReady"), ("False", "GatewayNotReady"), COMPLETE, FINE, "no gateway yet"),
    ("no gateway is ready", model(apiKeySecretRef={"name": "keys"}),
     observed("2:ready*2", gateway=Gateway(desired=2, available=0)),
     ("False", "GatewayNotReady"), ("False", "GatewayNotReady"), COMPLETE, FINE,
     "0 of 2 gateways are ready; see whether the Secret keys has API keys under api-keys and no wrong line there"),
    ("no gateway is wanted", model(), observed("2:ready*2", gateway=Gateway(desired=0, available=0)),
     ("False", "GatewayNotReady"), ("False", "GatewayNotReady"), COMPLETE, broken("GatewayNotReady"), "scaled to 0"),
    ("the gateway's image is missing", model(),
     observed("2:ready*2", gateway=Gateway(desired=2, available=0, trouble=trouble("ImagePullBackOff"))),
     ("False", "ImagePullBackOff"), ("False", "GatewayNotReady"), COMPLETE, broken("ImagePullBackOff"),
     "the gateway: it is so"),
    ("the gateway's new image is missing", model(),
     observed("2:ready*2", gateway=Gateway(desired=2, available=1, trouble=trouble("ImagePullBackOff"))),
     ("True", "ImagePullBackOff"), AVAILABLE, COMPLETE, broken("ImagePullBackOff"), "the gateway: it is so"),
    ("downloading", model(), observed("", RolloutState.FIRST_START, revision=None, download=Download(
        state=DownloadState.RUNNING, percent=40, message="downloading the model")),
     ("False", "Downloading"), NOT_AVAILABLE, ("True", "Downloading"), FINE, "downloading the model, 40 %"),
    ("the download has no place", model(), observed("", RolloutState.FIRST_START, revision=None, download=Download(
        state=DownloadState.RUNNING, trouble=trouble("ClaimNotBound"))),
     ("False", "ClaimNotBound"), NOT_AVAILABLE, ("True", "Downloading"), broken("ClaimNotBound"), "the download:"),
    ("the download failed", model(), observed("", RolloutState.FIRST_START, revision=None, download=Download(
        state=DownloadState.FAILED, message="the model is gated")),
     ("False", "DownloadFailed"), NOT_AVAILABLE, ("False", "DownloadFailed"), broken("DownloadFailed"),
     "the model is gated"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0].replace(" ", "-") for case in CASES])
def test_conditions(case: Any) -> None:
    _, asked, found, *expected, words = case
    written = status(asked, found, NOW)
    assert [said(written, kind) for kind in ("Ready", "Available", "Progressing", "Degraded")] == expected
    assert words in condition(written, "Ready")["message"]


REFUSED = {"refused": trouble("InvalidTemplate")}
CONFLICT = {"conflicts": ("configmaps/m-engine-life",)}
LASTING = {"troubles": {"m-2-1": trouble("OOMKilled")}}
NO_GATEWAY = {"gateway": Gateway(desired=2, available=0, trouble=trouble("ImagePullBackOff"))}
DOWNLOADING = {"download": Download(state=DownloadState.RUNNING, message="downloading")}
ORPHANS = {"orphans": fleets.fleet("1:ready")}
ORDER = [("InvalidTemplate", REFUSED), ("NameConflict", CONFLICT), ("UndoFailed", {"undo_error": "no"}),
         ("OOMKilled", LASTING), ("ImagePullBackOff", NO_GATEWAY), ("Downloading", DOWNLOADING),
         ("ReplicasStarting", {}), ("OrphanedPods", ORPHANS)]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(ORDER, 2)), ids=lambda each: each[0])
def test_of_several_reasons_the_most_telling_is_shown(
    first: tuple[str, dict[str, Any]], second: tuple[str, dict[str, Any]]
) -> None:
    both = observed("2:ready 2:starting", RolloutState.SCALING, **{**second[1], **first[1]})
    assert said(status(model(), both, NOW), "Ready") == ("False", first[0])


def test_degraded_tells_of_everything_that_needs_a_person() -> None:
    found = observed("2:ready 2:starting", RolloutState.SCALING, undo_error="no revision 7", **LASTING, **ORPHANS)
    message = condition(status(model(), found, NOW), "Degraded")["message"]
    assert "no revision 7; m-2-1: it is so; pods that bear" in message


def test_what_is_wrong_with_the_new_revision_comes_before_what_most_have() -> None:
    troubles = {f"m-1-{number}": trouble("CrashLoopBackOff") for number in (0, 1)} | {"m-2-2": trouble("OOMKilled")}
    found = observed("1:starting*2 2:starting", RolloutState.ROLLING, troubles=troubles)
    assert said(status(model(), found, NOW), "Ready") == ("False", "OOMKilled")
