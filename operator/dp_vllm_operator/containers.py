"""Why a container does not run or does not last, by its status and what it said. Pure; it knows nothing of nodes."""

import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from dp_vllm import names
from dp_vllm.engine import log
from dp_vllm_operator.trouble import Trouble, advised, one_line

Status = Mapping[str, Any]
"""A container's, as the kubelet reports it."""

LONG_RUN_SECONDS: Final = 600.0
"""After a run of this length the kubelet forgets earlier crashes, and so does a person."""

_BEGINNING: Final = ("", "ContainerCreating", "PodInitializing")
_NO_IMAGE: Final = (
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
)
_NOT_STARTED: Final = ("RunContainerError", "CreateContainerError", "StartError", "ContainerCannotRun")

_NOISE: Final = re.compile(
    r'^Back-off pulling image "[^"]*": (?:ErrImagePull: )?|rpc error: code = \w+ desc = '
    r'|failed to pull and unpack image "[^"]*": |failed to create (?:containerd|shim) task: '
    r"|OCI runtime create failed: |runc create failed: |: unknown$| \(pod: .*\)$"
)
"""Layers of the container runtime that say nothing."""

_IMAGE_FIXES: Final = (
    (r"(?i)unauthorized|denied|forbidden|authenticat|authoriz|\b40[13]\b", "name a Secret with the registry's login in "
     "spec.template.spec.imagePullSecrets"),
    (r"(?i)not found|manifest unknown|\b404\b|NotFound", "see whether its name is right"),
    (r"(?i)dial tcp|timeout|refused|no such host|TLS|x509|EOF", "see whether the nodes reach the registry"),
)  # fmt: skip
_CONFIG_FIXES: Final = (
    (r'^secret "([^"]+)" not found', "SecretNotFound", "make the Secret {0}; the replica goes on by itself then"),
    (r"^couldn't find key (\S+) in Secret \S*/(\S+)", "SecretNotFound", "the Secret {1} needs the key {0}"),
    (r'^configmap "([^"]+)" not found', "ConfigMapNotFound", "make the ConfigMap {0}"),
    (r"^couldn't find key (\S+) in ConfigMap \S*/(\S+)", "ConfigMapNotFound", "the ConfigMap {1} needs the key {0}"),
    (r"runAsNonRoot", "CreateContainerConfigError", "give a user's id in spec.engine.runAsUser"),
)
_START_FIXES: Final = (
    (r'exec: "([^"]+)": executable file not found', "the image has no {0}: see spec.engine.image"),
    (r"nvidia-container-cli|nvidia-container-runtime", "see whether the node's GPU driver works"),
)
_BY_KUBELET: Final = (
    "the kubelet does so if a probe fails (no start within spec.engine.startupTimeoutSeconds, or a hang of "
    "hangTimeoutSeconds); `kubectl describe pod` says which"
)
_SIGNAL_FIXES: Final = {
    signal.SIGKILL: _BY_KUBELET,
    signal.SIGTERM: _BY_KUBELET,
    signal.SIGBUS: "the shared memory may be full: raise spec.engine.shmSize",
    signal.SIGILL: "the image may be built for another CPU: see spec.engine.image",
}


def why_not_running(
    statuses: Iterable[tuple[Status, bool]], images: Mapping[str, str], lines: Sequence[str]
) -> Trouble | None:
    """The first trouble of a pod's containers, each with whether it is an init container; in their order of start.

    `lines` are the last of the engine before.
    """
    for status, is_init in statuses:
        name = status.get("name", "")
        said = lines if name == names.ENGINE_CONTAINER else ()
        if trouble := _why(status, _who(name), images.get(name, ""), said, is_init=is_init):
            return trouble
    return None


def how_it_ended(statuses: Iterable[Status], lines: Sequence[str]) -> str:
    """How the containers of a dead pod ended, and why: `the engine ended with exit code 2: it does not know --x`.

    Of the first that failed, else of the first.
    """
    ends = [(one.get("name", ""), (one.get("state") or {}).get("terminated")) for one in statuses]
    known = [(name, end) for name, end in ends if end]
    for name, end in (*(one for one in known if one[1].get("exitCode")), *known):
        how, why = _end(end, lines if name == names.ENGINE_CONTAINER else ())
        return f"{_who(name)} {how}: {why}" if why else f"{_who(name)} {how}"
    return ""


def fix(message: str, fixes: Iterable[tuple[str, str]]) -> str:
    """The advice that belongs to a message; empty if none is known."""
    for pattern, advice in fixes:
        if match := re.search(pattern, message):
            return advice.format(*match.groups())
    return ""


def _who(name: str) -> str:
    return "the engine" if name == names.ENGINE_CONTAINER else f"the container {name}"


def _why(status: Status, who: str, image: str, lines: Sequence[str], *, is_init: bool) -> Trouble | None:
    state, last = status.get("state") or {}, (status.get("lastState") or {}).get("terminated")
    if waiting := state.get("waiting"):
        reason, message = waiting.get("reason") or "", _NOISE.sub("", waiting.get("message") or "")
        if reason in _BEGINNING:
            return None
        if reason != "CrashLoopBackOff" or not last:
            return _waiting(reason, message, who, image)
        return _ended(status, last, who, lines, loops=True)
    if ended := state.get("terminated"):
        if is_init and ended.get("exitCode") == 0:
            return None
        return _ended(status, ended, who, lines, loops=_restarts(status) >= 1)
    if last and not status.get("ready") and _restarts(status):
        loops = _restarts(status) >= 2 and _run_seconds(last) < LONG_RUN_SECONDS
        return _ended(status, last, who, lines, loops=loops)
    return None


def _waiting(reason: str, message: str, who: str, image: str) -> Trouble:
    if reason in _NO_IMAGE:
        known = "ImagePullBackOff" if reason == "ErrImagePull" else reason
        text = f"the image {image} cannot be pulled: {message}"
        return Trouble.of(known, advised(text, fix(message, _IMAGE_FIXES)), needs_person=True)
    if reason == "InvalidImageName":
        return Trouble.of(reason, advised(message, "see spec.engine.image"), needs_person=True)
    if reason in _NOT_STARTED:
        return _not_started(message, who)
    for pattern, known, advice in _CONFIG_FIXES if reason == "CreateContainerConfigError" else ():
        if match := re.search(pattern, message):
            return Trouble.of(known, advised(message, advice.format(*match.groups())), needs_person=True)
    return Trouble.of(reason, f"{who} waits: {message or reason}", needs_person=True)


def _not_started(message: str, who: str) -> Trouble:
    text = f"{who} cannot be started: {_NOISE.sub('', message)}"
    return Trouble.of("RunContainerError", advised(text, fix(message, _START_FIXES)), needs_person=True)


def _ended(status: Status, ended: Mapping[str, Any], who: str, lines: Sequence[str], *, loops: bool) -> Trouble:
    """It ended and is started again, sooner or later."""
    reason = ended.get("reason") or ""
    if reason in _NOT_STARTED:
        return _not_started(ended.get("message") or "", who)
    how, why = _end(ended, lines)
    restarts = _restarts(status)
    times = f", {restarts} restart{'s' if restarts > 1 else ''}" if restarts else ""
    known = reason if reason == "OOMKilled" else "CrashLoopBackOff" if loops else "Restarted"
    return Trouble.of(known, f"{who} {how}{times}: {why}" if why else f"{who} {how}{times}", needs_person=loops)


def _end(ended: Mapping[str, Any], lines: Sequence[str]) -> tuple[str, str]:
    """How, and why or what to do."""
    code = ended.get("exitCode") or 0
    said = [*lines, *(ended.get("message") or "").splitlines()]
    why = log.likely_cause(said)
    if ended.get("reason") == "OOMKilled":
        advice = "raise the memory in spec.engine.resources.limits (what /dev/shm holds counts)"
        return "used more memory than its limit and was killed (OOMKilled)", advice
    if name := _signal(code):
        return f"was ended by {name.name} (exit code {code})", why or _SIGNAL_FIXES.get(name, "") or _quoted(said)
    return f"ended with exit code {code}", why or _quoted(said)


def _quoted(said: Sequence[str]) -> str:
    return one_line(log.last_error(said), log.LONGEST)


def _signal(exit_code: int) -> signal.Signals | None:
    """Exit code 128 is the runtime's own: the program was never started."""
    try:
        return signal.Signals(exit_code - 128) if exit_code > 128 else None
    except ValueError:
        return None


def _restarts(status: Status) -> int:
    return int(status.get("restartCount") or 0)


def _run_seconds(ended: Mapping[str, Any]) -> float:
    begin, end = ended.get("startedAt"), ended.get("finishedAt")
    if not begin or not end:
        return 0.0
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()
