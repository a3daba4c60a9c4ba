"""Serves a deployment of stand-ins: `serve_stand_ins.py BASE PORT SHUTDOWN_SECONDS GATEWAY_FLAGS ENGINE_FLAGS...`.

Each of the flags is one word, as a shell would read it; `exec ...` puts a command in the stand-in engine's place. BASE
gets the run's directory and the logs.
"""

import shlex
import sys
from pathlib import Path

from dp_vllm.engine.command import Command
from dp_vllm.errors import DpVllmError
from dp_vllm.local import serve
from dp_vllm.local.deployment import Deployment, Listen, Replica
from dp_vllm.local.resize import free_numbers
from dp_vllm.local.run_directory import RunDirectory

HERE = Path(__file__).parent


def deployment(base: Path, port: int, shutdown_seconds: float, gateway: str, *engines: str) -> Deployment:
    directory = RunDirectory(base / "run", base / "logs")
    gateway_flags = ("--endpoints-file", str(directory.endpoints), "--admin-socket", str(directory.admin_socket))
    return Deployment(
        model="demo/model",
        engine="stand-in",
        replicas=tuple(replica(directory, str(name), flags) for name, flags in enumerate(engines)),
        listen=Listen("127.0.0.1", port),
        gateway=program("stand_in_gateway.py", *gateway_flags, gateway, f"--shutdown-timeout {shutdown_seconds}"),
        files={},
        shutdown_timeout_seconds=shutdown_seconds,
        directory=directory,
        more=lambda present, count, model: tuple(
            replica(directory, str(number), "") for number in free_numbers([each.name for each in present], count)
        ),
    )


def replica(directory: RunDirectory, name: str, flags: str) -> Replica:
    socket = directory.replica_socket(name)
    stand_in = program("stand_in_engine.py", "--uds", str(socket), flags)
    command = Command(tuple(shlex.split(flags)[1:]), {}) if flags.startswith("exec ") else stand_in
    return Replica(name, (), command, f"unix:{socket}", cards=(f"GPU-{name}",))


def program(name: str, *flags: str) -> Command:
    return Command(
        (sys.executable, "-u", str(HERE / name), *(word for each in flags for word in shlex.split(each))), {}
    )


if __name__ == "__main__":
    given_base, given_port, seconds, *flags = sys.argv[1:]
    try:
        sys.exit(serve.serve(deployment(Path(given_base), int(given_port), float(seconds), *flags)))
    except DpVllmError as problem:
        sys.exit(f"dp-vllm: {problem}")
