"""Where a run keeps its things: one directory that every `dp-vllm` command of this user finds by the run's name.

Only names are made here; whoever starts the run makes the directories and claims them.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dp_vllm.errors import BadSettings, UserError

SOCKET_PATH_BYTES: Final = 107
"""How long a unix socket's path may be: `sun_path` has 108 bytes, the last of them zero."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


_SESSIONS: Final = Path("/run/user")
"""Where systemd-logind keeps a directory for each user with a session."""


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The files of one run. `path` is to have mode 0700, `keys` 0600."""

    path: Path
    logs: Path
    """Directory of the logs and crash reports; it outlives the run."""

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def endpoints(self) -> Path:
        """The endpoints file (`dp_vllm.endpoints`)."""
        return self.path / "endpoints.json"

    @property
    def admin_socket(self) -> Path:
        """Where the gateway answers `GET /state`."""
        return self.path / "admin.sock"

    @property
    def supervisor_socket(self) -> Path:
        """Where the supervisor answers, and takes orders (`dp_vllm.local.standing`)."""
        return self.path / "supervisor.sock"

    @property
    def keys(self) -> Path:
        """The endpoint's API keys, one a line, if they were given as words or by the environment."""
        return self.path / "keys"

    @property
    def secret(self) -> Path:
        """What the nodes of one run know each other by."""
        return self.path / "secret"

    @property
    def engine_config(self) -> Path:
        """What is left of `--config` for the engines, without the endpoint's own flags."""
        return self.path / "engine.yaml"

    @property
    def run(self) -> Path:
        """Process ids with start times of the supervisor and its children."""
        return self.path / "run.json"

    @property
    def announcement(self) -> Path:
        """Holds the endpoint's URL in a Slurm job. Beside the logs, because other machines see those."""
        return self.logs / "endpoint"

    @property
    def gateway_log(self) -> Path:
        return self.logs / "gateway.log"

    @property
    def crashes(self) -> Path:
        """A folder for each end of an engine that nobody asked for."""
        return self.logs / "crashes"

    def replica_segments(self, replica: str) -> Path:
        """Which shared memory this replica's engine uses."""
        return self.path / f"replica-{replica}.segments.json"

    def replica_socket(self, replica: str) -> Path:
        """The unix socket that the engine of this replica listens on. Raises UserError if its path is too long."""
        path = self.path / f"replica-{replica}.sock"
        size = len(os.fsencode(path))
        if size > SOCKET_PATH_BYTES:
            raise UserError(
                f"{self.path} is too long a path to keep sockets in ({size} bytes with {path.name}, at most "
                f"{SOCKET_PATH_BYTES}); give a shorter --name, or set XDG_RUNTIME_DIR to a shorter path of your own"
            )
        return path

    @property
    def doors_log(self) -> Path:
        """Other nodes of the run log to the same place, and have doors too."""
        return self.logs / f"doors-{self.name}.log"

    def replica_log(self, replica: str) -> Path:
        return self.logs / f"replica-{replica}.log"


def run_directory(
    name: str, environ: Mapping[str, str], *, uid: int | None = None, log_dir: Path | None = None
) -> RunDirectory:
    """The directory of the run called `name`.

    It is below `$XDG_RUNTIME_DIR` if that can be used, else below `/tmp/dp-vllm-UID`; the logs are in `log_dir`, or
    below `$XDG_STATE_HOME` (`~/.local/state`). Raises BadSettings for a name that cannot be one, and UserError if
    sockets in that directory would have too long a path.
    """
    if not _NAME.fullmatch(name):
        raise BadSettings(
            f"--name: {name!r} cannot name a run; use up to 63 letters, digits, '.', '_' and '-', "
            "beginning with a letter or a digit"
        )
    path = homes(environ, os.getuid() if uid is None else uid)[0] / name
    directory = RunDirectory(path, log_dir.absolute() if log_dir else _state(environ, path) / name)
    directory.replica_socket("9999")
    return directory


def homes(environ: Mapping[str, str], uid: int) -> tuple[Path, ...]:
    """Where runs have their directories: new ones in the first, those of other environments in the others."""
    # A batch job often inherits the variable from a login node whose /run/user/UID does not exist here.
    given = Path(environ.get("XDG_RUNTIME_DIR", ""))
    shared = Path(f"/tmp/dp-vllm-{uid}")  # noqa: S108 - made with mode 0700 and refused if it is somebody else's
    if not (given.is_absolute() and given.is_dir() and os.access(given, os.W_OK | os.X_OK)):
        return (shared,)
    if not given.is_relative_to(_SESSIONS):
        return (given / "dp-vllm",)
    # What a login session has, a job or a service of the same user may lack. A job never uses it: it is that of an SSH
    # session beside the job, and is removed when that ends.
    return (shared,) if "SLURM_JOB_ID" in environ else (given / "dp-vllm", shared)


def _state(environ: Mapping[str, str], run: Path) -> Path:
    given = Path(environ.get("XDG_STATE_HOME", ""))
    if given.is_absolute():
        return given / "dp-vllm"
    home = Path(environ.get("HOME", ""))
    if home.is_absolute() and home != Path("/"):
        return home / ".local" / "state" / "dp-vllm"
    return run.parent / "logs"
