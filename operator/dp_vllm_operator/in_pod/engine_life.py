"""The engine's liveness probe and preStop hook: a program that runs in a replica pod, beside the engine.

    python3 -I engine_life.py live --hang-timeout-seconds 180
    python3 -I engine_life.py pre-stop --drain-timeout-seconds 300

`live` exists because an engine whose core hangs still answers /health 200. It looks at what the core does: one that has
requests and moves no counter does nothing. `pre-stop` exists because an engine that is told to end cuts its requests,
and while it loads does not even end: it waits for the requests, or sends the signal that such an engine swallows.

Whatever Python an engine's image has runs it, from 3.9 on, so it uses nothing but the standard library.
"""

from __future__ import annotations

import argparse
import errno
import http.client
import json
import math
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LOOK_SECONDS = 3.5
"""All of one look at the engine: the kubelet ends a probe after 5 s, and takes that for a failure."""
EARLY_SECONDS = 2.0
"""Probes come at whole periods, a little early or late: one that is so much early still counts."""
FORGET_SECONDS = 90.0
"""What was seen longer ago says nothing: nobody knows what was in between."""
POLL_SECONDS = 1.0
SIGNALS_APART_SECONDS = 1.0

NOTHING_LISTENS = (errno.ECONNREFUSED, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETUNREACH)
"""Errors of a connection to an address where nothing listens, or that this machine does not have."""

COUNTERS = ("vllm:iteration_tokens_total_count", "vllm:kv_cache_usage_perc")
"""One of them moves while the core works; the first alone stands still during one long prefill."""
QUEUES = ("vllm:num_requests_running", "vllm:num_requests_waiting")
CANARY = {"prompt": "a", "input": "a", "max_tokens": 1}
"""The smallest request: one token, or one vector of a model that makes vectors."""


class Refused(Exception):
    """Nothing listens on the engine's port."""


class Silent(Exception):
    """The engine did not answer in time, or not in HTTP."""


class Dead(Exception):
    """The engine says that it is dead."""


class Engine:
    """The engine's HTTP server. All that is asked of one object takes `LOOK_SECONDS` at most."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._until = time.monotonic() + LOOK_SECONDS

    def ask(self, path: str, body: object = None) -> tuple[int, bytes]:
        """GET a path, or POST a body to it. Raises Refused or Silent."""
        seconds = self._until - time.monotonic()
        if seconds <= 0:
            raise Silent
        method, content = ("GET", None) if body is None else ("POST", json.dumps(body))
        connection = self._connected(seconds)
        try:
            connection.request(method, path, content, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            raise Silent from None
        finally:
            connection.close()

    def _connected(self, seconds: float) -> http.client.HTTPConnection:
        """An engine on `::` takes IPv4 too, unless the kernel is set to keep the two apart (net.ipv6.bindv6only)."""
        for host in ("127.0.0.1", "::1"):
            connection = http.client.HTTPConnection(host, self._port, timeout=seconds)
            try:
                connection.connect()
            except OSError as error:
                if error.errno not in NOTHING_LISTENS:
                    raise Silent from None
            else:
                return connection
        raise Refused

    def field(self, path: str, name: str) -> Any:
        """A field of a path's JSON answer; None if there is no such path or field."""
        try:
            value = json.loads(self.ask(path)[1])
        except ValueError:
            return None
        return value.get(name) if isinstance(value, dict) else None

    def load(self) -> int | None:
        """HTTP requests under way, a stream up to its last byte; None if this engine does not say."""
        load = self.field("/load", "server_load")
        return load if isinstance(load, int) else None

    def metrics(self, names: tuple[str, ...]) -> list[str]:
        """The lines of these metrics; none if one of them is missing, as with --disable-log-stats."""
        text = self.ask("/metrics")[1].decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if line.startswith(tuple(f"{name}{{" for name in names))]
        return lines if all(any(line.startswith(name) for line in lines) for name in names) else []


# Life


@dataclass(frozen=True)
class Look:
    """What one call of `live` saw, kept for the next one."""

    engine: str
    """Which process it was."""
    at: float
    trouble: str
    """What may be wrong, in the same words for as long as it lasts; empty if nothing is."""
    since: float
    failure: str
    """Why the engine is to be restarted; empty if it is not."""


def live(port: int, hang_timeout_seconds: float) -> str:
    """Look at the engine once. The answer is why it is to be restarted; empty if it is not."""
    now, process, engine = time.monotonic(), main_process(), Engine(port)
    before = last_look(process, now)
    trouble = sentence = failure = ""
    try:
        trouble, sentence = trouble_of(engine)
    except Silent:
        trouble, sentence = "silent", "the engine did not answer"
    except Refused:
        failure = f"the engine is gone: nothing listens on port {port}"
    except Dead:
        failure = "the engine is dead: it answers /health 503"
    since = before.since if before is not None and before.trouble == trouble else now
    if trouble and now - since >= hang_timeout_seconds - EARLY_SECONDS:
        if trouble != "silent" and waits_for_others(engine):
            since = now
        else:
            failure = f"{sentence} for {now - since:.0f} s"
    keep(Look(process.identity, now, trouble, since, failure))
    return failure


def trouble_of(engine: Engine) -> tuple[str, str]:
    """What may be wrong with an engine that answers, and a sentence about it. Raises Refused, Silent or Dead."""
    if engine.ask("/health")[0] == http.client.SERVICE_UNAVAILABLE:
        raise Dead
    load = engine.load()
    if load is None or load <= 0:
        return "", ""
    counters = "\n".join(engine.metrics(COUNTERS))
    return counters, counters and f"the engine hangs: it has requests ({load}), and its core did nothing"


def waits_for_others(engine: Engine) -> bool:
    """Whether a core that does nothing is right: it sleeps, or its requests wait for a client or a tool.

    In the second case it answers one more request.
    """
    try:
        told = engine.field("/is_sleeping", "is_sleeping") or engine.field("/is_paused", "is_paused")
        return told is True or engine.ask("/invocations", CANARY)[0] == http.client.OK
    except (Refused, Silent):
        return False


def memory() -> Path:
    """Where a look is kept."""
    return Path(os.environ.get("TMPDIR") or "/tmp", "dp-vllm-engine-life.json")  # noqa: S108


def last_look(process: Process, now: float) -> Look | None:
    """The look of the call before; None if there was none lately, or at another process."""
    try:
        look = Look(**json.loads(memory().read_text()))
        fresh = 0 <= now - look.at <= FORGET_SECONDS and look.since <= look.at
        return look if fresh and look.engine == process.identity else None
    except (OSError, ValueError, TypeError):
        return None


def keep(look: Look) -> None:
    """Keep a look for the next call."""
    path = memory()
    new = path.with_suffix(f".{os.getpid()}")
    try:
        new.write_text(json.dumps(asdict(look)))
        new.replace(path)
    except OSError as error:
        print(f"what was seen cannot be kept: {error}", file=sys.stderr)  # noqa: T201


# The end


def pre_stop(port: int, drain_timeout_seconds: float, settle_seconds: float) -> str:
    """Return when the engine may be told to end; the answer says why that is now."""
    begun = time.monotonic()
    process = main_process()
    look = last_look(process, begun)
    if look is not None and look.failure:
        return look.failure
    try:
        Engine(port).ask("/health")
    except Refused:
        return end_early(process)
    except Silent:
        pass
    time.sleep(settle_seconds)
    while True:
        try:
            requests = under_way(Engine(port))
        except Refused:
            return "the engine is gone"
        except Silent:
            requests = None
        if requests is not None and requests <= 0:
            return "no request is under way"
        if time.monotonic() - begun + POLL_SECONDS > drain_timeout_seconds:
            return f"{'some' if requests is None else requests} requests are still under way, and are cut now"
        time.sleep(POLL_SECONDS)


def under_way(engine: Engine) -> int | None:
    """How many requests the engine has; None if nothing says so.

    /load alone can say too few: it sinks when clients leave at a bad moment, and each of several API servers knows
    only its own. The core's queues alone do not know of the last bytes of an answer.
    """
    load, queued = engine.load(), [value_of(line) for line in engine.metrics(QUEUES)]
    return int(max(load or 0, sum(queued))) if queued else load


def value_of(line: str) -> float:
    """A metric's value; 0 if it is none, as NaN."""
    try:
        value = float(line.split()[-1])
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def end_early(process: Process) -> str:
    """Tell an engine that does not listen yet to end: it swallows one signal, and the kubelet sends only one."""
    if "KUBERNETES_SERVICE_HOST" not in os.environ:
        return "the engine does not listen; this is no pod, so no process is told to end"
    if process.pid == os.getpid():
        return "the engine does not listen, and its process is not to be seen"
    os.kill(process.pid, signal.SIGTERM)
    until = time.monotonic() + SIGNALS_APART_SECONDS
    while time.monotonic() < until and main_process() == process:
        time.sleep(0.05)
    return f"the engine does not listen yet: process {process.pid} was told to end"


# The container


@dataclass(frozen=True)
class Process:
    """A process; `start` tells it from an earlier one with its number."""

    pid: int
    start: int

    @property
    def identity(self) -> str:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {self.start} {self.pid}"


def main_process() -> Process:
    """The first process of this container: the oldest one that has our mount namespace.

    All containers of a pod share one process namespace, so it is not number 1.
    """
    own, found = os.readlink("/proc/self/ns/mnt"), []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "ns/mnt") == own:
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
                found.append((int(after_name[19]), int(entry.name)))
        except OSError:
            continue  # it ended, or belongs to another user
    start, pid = min(found)
    return Process(pid, start)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Probe and end the vLLM engine of this pod.")
    commands = parser.add_subparsers(dest="command", required=True)
    probe = commands.add_parser("live", help="exit status 1 if the engine is to be restarted")
    probe.add_argument("--hang-timeout-seconds", type=float, required=True)
    hook = commands.add_parser("pre-stop", help="wait until the engine may be told to end")
    hook.add_argument("--drain-timeout-seconds", type=float, required=True)
    hook.add_argument("--settle-seconds", type=float, default=5.0, help="until gateways send nothing more")
    for command in (probe, hook):
        command.add_argument("--port", type=int, default=8000)
    given = parser.parse_args(argv)
    if given.command == "live":
        said = live(given.port, given.hang_timeout_seconds)
        print(said or "alive")  # noqa: T201
        return 1 if said else 0
    print(pre_stop(given.port, given.drain_timeout_seconds, given.settle_seconds))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
