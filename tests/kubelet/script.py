"""What becomes of a pod, as a value; and the status that a kubelet would report of it. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

Object = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What becomes of a pod. `dataclasses.replace` makes another of a known one."""

    ready: bool = True
    start_seconds: float = 0.0
    """How long it runs before it is ready."""
    stop_seconds: float = 0.0
    """How long it goes on after its deletion, at most its grace period. `float("inf")`: for ever."""
    phase: str = ""
    """`Failed` or `Succeeded`: it has ended and is not started again."""
    reason: str = ""
    """The pod's own, as `Evicted`."""
    container: str = ""
    """Whom the following is about; the first container if empty. May be an init container."""
    waiting: str = ""
    """Why it does not run, as `CrashLoopBackOff`."""
    ended: str = ""
    """Why it ended, the last time, as `OOMKilled`."""
    exit_code: int = 0
    restarts: int = 0
    message: str = ""
    """Of the state that is scripted: the pod's if it has a reason, else the container's."""
    ip: str = ""
    """The pod's address; one of its own if empty."""


READY: Final = Script()
NEVER_READY: Final = Script(ready=False)
SUCCEEDED: Final = Script(phase="Succeeded", ended="Completed")
FAILED: Final = Script(phase="Failed", ended="Error", exit_code=1)
EVICTED: Final = Script(phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
OOM_KILLED: Final = Script(ended="OOMKilled", exit_code=137, restarts=1)
"""Once; it runs again."""
CRASH_LOOP: Final = Script(
    waiting="CrashLoopBackOff",
    ended="Error",
    exit_code=1,
    restarts=5,
    message="back-off 2m40s restarting failed container",
)
IMAGE_PULL: Final = Script(waiting="ImagePullBackOff", message='Back-off pulling image "no/such:image"')


def default_script(pod: Object) -> Script:
    """A server runs, a job is done."""
    return READY if pod["spec"].get("restartPolicy", "Always") == "Always" else SUCCEEDED


def status(pod: Object, script: Script, ip: str, seen_at: float, now: float) -> Object:
    """What the kubelet says of a pod that it has seen first at `seen_at`."""
    started = now >= seen_at + script.start_seconds
    since = _time(seen_at)
    return _PodStatus(pod, script, started, since).all() | {
        "hostIP": "127.0.0.1",
        "hostIPs": [{"ip": "127.0.0.1"}],
        "podIP": script.ip or ip,
        "podIPs": [{"ip": script.ip or ip}],
        "startTime": since,
    }


@dataclass(frozen=True, slots=True)
class _PodStatus:
    pod: Object
    script: Script
    started: bool
    since: str

    def all(self) -> Object:
        spec = {"containers": []} if self._rejected else self.pod["spec"]
        init = [self._container(c, is_init=True) for c in spec.get("initContainers", [])]
        main = [self._container(c, is_init=False) for c in spec["containers"]]
        initialized = not self._stuck_in_init
        ready = initialized and self.script.phase == "" and all(c["ready"] for c in main)
        return {
            "phase": self._phase(),
            "initContainerStatuses": init,
            "containerStatuses": main,
            "conditions": self._conditions({"Initialized": initialized, "ContainersReady": ready, "Ready": ready}),
            **({"reason": self.script.reason, "message": self.script.message} if self.script.reason else {}),
        }

    @property
    def _rejected(self) -> bool:
        """Ended as a pod, by the kubelet: nothing is said of its containers."""
        return bool(self.script.phase and self.script.reason and not self.script.ended)

    @property
    def _subject(self) -> str:
        return self.script.container or str(self.pod["spec"]["containers"][0]["name"])

    @property
    def _stuck_in_init(self) -> bool:
        init = [c["name"] for c in self.pod["spec"].get("initContainers", [])]
        return self._subject in init and bool(self.script.waiting or self.script.phase == "Failed")

    def _phase(self) -> str:
        if self.script.phase:
            return self.script.phase
        never_ran = self.script.waiting and not self.script.ended
        return "Pending" if never_ran or self._stuck_in_init else "Running"

    def _container(self, container: Object, *, is_init: bool) -> Object:
        name = container["name"]
        is_subject = name == self._subject
        restarts = self.script.restarts if is_subject else 0
        state, last = self._state(container, is_subject=is_subject, is_init=is_init)
        running = "running" in state
        ready = (running and self.script.ready and self.started) or (is_init and "terminated" in state)
        return {
            "name": name,
            "image": container["image"],
            "imageID": f"sha256:{0:064x}",
            "containerID": f"fake://{self.pod['metadata']['uid']}/{name}/{restarts}",
            "ready": ready,
            "started": running,
            "restartCount": restarts,
            "state": state,
            "lastState": last,
        }

    def _state(self, container: Object, *, is_subject: bool, is_init: bool) -> tuple[Object, Object]:
        """What a container does now, and how it ended before."""
        script = self.script
        running = {"running": {"startedAt": self.since}}
        ended = self._ended(script.ended, script.exit_code, script.message) if script.ended else {}
        if is_subject and script.waiting:
            return {"waiting": {"reason": script.waiting, "message": script.message}}, ended
        if script.phase:
            return (ended if is_subject and ended else self._ended("Completed", 0, "")), {}
        if is_init and container.get("restartPolicy") != "Always":
            return self._ended("Completed", 0, ""), {}
        if self._stuck_in_init:
            return {"waiting": {"reason": "PodInitializing"}}, {}
        return running, ended if is_subject else {}

    def _ended(self, reason: str, exit_code: int, message: str) -> Object:
        times = {"startedAt": self.since, "finishedAt": self.since}
        return {"terminated": {"reason": reason, "exitCode": exit_code, "message": message, **times}}

    def _conditions(self, values: dict[str, bool]) -> list[Object]:
        reason = {"ContainersReady": "ContainersNotReady", "Ready": "ContainersNotReady"}
        return [
            {
                "type": kind,
                "status": str(value),
                "reason": "" if value else reason.get(kind, "ContainersNotInitialized"),
            }
            for kind, value in values.items()
        ]


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
