"""Everything that the supervisor says to people: in the terminal, and through the gateway to waiting clients.

Pure: it is told what happened and makes the sentences.
"""

import itertools
import shlex
from collections.abc import Sequence
from typing import Final

from dp_vllm import __version__
from dp_vllm.local.deployment import Deployment, Listen, Replica
from dp_vllm.local.plan import End, Then

_LAST_LINES: Final = 10
_CHAT: Final = "/v1/chat/completions"


def greeting(deployment: Deployment) -> str:
    """What is being started, where it will answer, and a command to try it with."""
    count = len(deployment.replicas)
    lines = [
        f"dp-vllm {__version__}: {deployment.model}, {count} {'replica' if count == 1 else 'replicas'}, "
        f"engine {deployment.engine}",
        "",
        *(
            f"  replica {each.name:<3} GPU {', '.join(each.gpus)}{joined(each)}"
            for each in deployment.replicas
            if each.gpus
        ),
        *_models(deployment),
        f"  endpoint    {deployment.listen.url}{'' if deployment.listen.uds else '/v1'}",
        *_elsewhere(deployment),
        f"  logs        {deployment.directory.logs}",
        "",
        *_example(deployment),
        "",
        "  Ctrl-C ends everything; `dp-vllm status` in another terminal shows how it stands.",
        "",
    ]
    return "\n".join(lines)


def _models(deployment: Deployment) -> list[str]:
    """Who serves what, where there are several models."""
    grouped = itertools.groupby(deployment.replicas, lambda replica: replica.models)
    return [f"  {', '.join(models)}: {', '.join(each.name for each in group)}" for models, group in grouped if models]


def greeting_elsewhere(deployment: Deployment) -> str:
    """The same where replicas serve an endpoint on another machine."""
    replicas = (f"{each.name} (GPU {', '.join(each.gpus)})" if each.gpus else each.name for each in deployment.replicas)
    return f"{deployment.directory.name}: replicas {', '.join(replicas)} for {deployment.listen.url}/v1\n"


def port_is_taken(wanted: Listen, found: Listen) -> str:
    return f"port {wanted.port} is taken here, so the endpoint is on port {found.port}; --port chooses another"


def _elsewhere(deployment: Deployment) -> list[str]:
    url = deployment.listen.url_elsewhere
    return [f"  from others {url}/v1 (also in {deployment.directory.announcement})"] if url else []


def joined(replica: Replica) -> str:
    """What joins the replica's GPUs, if it is known."""
    return f" (slowest link {replica.worst_link})" if replica.worst_link else ""


def _example(deployment: Deployment) -> list[str]:
    body = f'{{"model": "{_served_name(deployment)}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    key = " -H 'Authorization: Bearer YOUR-KEY'" if "--api-key-file" in deployment.gateway.argv else ""
    return [
        f"  curl {_curl_target(deployment.listen)} -H 'Content-Type: application/json'{key} \\",
        f"    -d {shlex.quote(body)}",
    ]


def _curl_target(listen: Listen) -> str:
    if listen.uds is None:
        return listen.url + _CHAT
    return f"--unix-socket {shlex.quote(str(listen.uds))} {'https' if listen.tls else 'http'}://localhost{_CHAT}"


def _served_name(deployment: Deployment) -> str:
    first = deployment.replicas[0]
    if first.models:
        return first.models[0]
    argv = first.command.argv
    for word, following in itertools.pairwise(argv):
        if word == "--served-model-name":
            return following
        if word.startswith("--served-model-name="):
            return word.partition("=")[2]
    return deployment.model


def ready(name: str, seconds: float, count: int, total: int) -> str:
    return f"ready: {count} of {total} ({name} after {seconds:.1f} s)"


def ended(name: str, end: End, restart_seconds: int) -> str:
    when = f"in {restart_seconds} s" if restart_seconds else "at once"
    return f"{name} ended ({end}); it is started again {when}{_written_down(end)}"


def stays_down(name: str, end: End, lines: Sequence[str]) -> str:
    """With the program's last lines, because they scrolled away long ago among those of the others."""
    last = "".join(f"\n    {line}" for line in lines[-_LAST_LINES:])
    told = f"{name} stays down, it failed several times in the same way ({end}){_written_down(end)}"
    return f"{told}{':' if last else ''}{last}"


def _written_down(end: End) -> str:
    return f"; see {end.folder}/report.txt" if end.folder else ""


def hangs_on(name: str, sentence: str, reason: str) -> str:
    """Of a replica that is left alone although it hangs."""
    return f"replica {name} hangs ({sentence}), and is not ended: {reason}"


NO_HANG_DOCTOR: Final = "the engines give no metrics (--disable-log-stats), so it is not noticed if one hangs"


def ordered(names: Sequence[str], then: Then) -> str:
    return f"{replicas(names)} {_ORDERED[then] if len(names) == 1 else _ORDERED_SEVERAL[then]}"


_ORDERED: Final = {
    Then.STAY_DOWN: "is to end and stays down until `dp-vllm restart`",
    Then.START: "is to end and is started again",
    Then.LEAVE: "is to leave",
}
_ORDERED_SEVERAL: Final = {
    Then.STAY_DOWN: "are to end and stay down until `dp-vllm restart`",
    Then.START: "are to end and are started again",
    Then.LEAVE: "are to leave",
}


def coming(names: Sequence[str]) -> str:
    return f"{replicas(names)} {'comes' if len(names) == 1 else 'come'}"


def replicas(names: Sequence[str]) -> str:
    return f"{'replica' if len(names) == 1 else 'replicas'} {', '.join(names)}"


def in_flight(count: int, seconds_left: float) -> str:
    return f"{count} {'request' if count == 1 else 'requests'} in flight, {max(1, round(seconds_left))} s left"


STOPPING: Final = "stopping (Ctrl-C again ends everything at once)"
STOPPING_WITH_OTHERS: Final = "stopping, because the first node does or is gone"
NOTHING_CAME_UP: Final = (
    "no replica came up, so there is nothing to serve; `dp-vllm doctor` with the same words looks for what is wrong"
)
NOTHING_IS_LEFT: Final = "all replicas stay down, so there is nothing left to serve"
NO_GATEWAY: Final = "the gateway does not come up, so nothing can be served"
KILLING: Final = "killing what is left"
STOPPED: Final = "stopped"


ASKING_HUB: Final = "asking the hub whether the model has changed"
HUB_IS_SILENT: Final = "the hub does not say whether the model has changed"


def hub_has_moved(name: str, commit: str) -> str:
    return f"{name} has moved to {commit[:12]} at the hub meanwhile"


def pinned(name: str, why: str, model: str, commit: str, *, offline: bool) -> str:
    alone = "from the cache, " if offline else ""
    return f"replica {name} starts {alone}with the {model} that this run serves ({commit[:12]}): {why}"


WAITING_FOR_MEMORY: Final = "waiting for the memory of its GPUs"


def memory_is_missing(found: str, seconds: float) -> str:
    return f"the memory of its GPUs is not back after {seconds:g} s ({found})"


def goes_ahead(name: str, waiting: int) -> str:
    others = "the other one waits" if waiting == 1 else f"the other {waiting} wait"
    return f"replica {name} goes ahead and compiles the model; {others}, to find it compiled"


def waits_for(name: str) -> str:
    return f"waiting for replica {name}, which compiles the model for all"


def all_start(why: str) -> str:
    return f"{why}: the others start"


def for_clients_starting(name: str, progress: str) -> str:
    return f"{name} is starting ({progress})" if progress else f"{name} is starting"


def for_clients_stopped(name: str, then: Then) -> str:
    return f"{name} is being restarted" if then is Then.START else f"{name} was told to end"


def for_clients_down(name: str, end: End | None, *, for_good: bool) -> str:
    how = f" ({end.for_clients})" if end else ""
    return f"{name} stays down{how}" if for_good else f"{name} ended{how} and is started again"
