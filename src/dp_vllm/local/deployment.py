"""What is to run on this machine, decided to the last word before anything starts.

The command line makes a `Deployment`, `--dry-run` prints it, the supervisor runs it. It says nothing of what is
running now.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dp_vllm import hosts
from dp_vllm.engine.command import Command
from dp_vllm.engine.hang import HANG_SECONDS
from dp_vllm.engine.hub import Repository
from dp_vllm.local.run_directory import RunDirectory


@dataclass(frozen=True, slots=True)
class Listen:
    """Where clients reach the endpoint: a TCP port, or a unix socket."""

    host: str | None
    """None stands for all interfaces, IPv4 and IPv6, as `::` does."""
    port: int
    uds: Path | None = None
    """If given, host and port mean nothing."""
    tls: bool = False
    or_next: bool = False
    """If the port is taken, one of the next may be listened on instead."""
    node: str = ""
    """The name under which other machines know this one, if one is known."""

    @property
    def url(self) -> str:
        """What a client on this machine uses: `http://127.0.0.1:8000`, or `unix:/path`."""
        if self.uds is not None:
            return f"unix:{self.uds}"
        return self._url(hosts.from_here(self.host))

    @property
    def url_elsewhere(self) -> str:
        """What a client on another machine uses; empty if there is none, or if its name for this one is not known."""
        return self._url(self.node) if self.node and hosts.is_everywhere(self.host) and self.uds is None else ""

    def _url(self, host: str) -> str:
        return f"{'https' if self.tls else 'http'}://{hosts.in_url(host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class Replica:
    """One complete copy of the model: one engine to keep running."""

    name: str
    """"0", "1", ... in the order of its GPUs; "chat-0" where there are several models."""
    gpus: tuple[str, ...]
    """What its CUDA_VISIBLE_DEVICES holds; empty if it uses no GPUs."""
    command: Command
    address: str
    """Where the engine will listen: `unix:/path` (to be unlinked before each start) or `host:port`."""
    cards: tuple[str, ...] = ()
    """What the driver calls its GPUs; empty if it was not asked."""
    worst_link: str | None = None
    """The slowest link between any two of its GPUs, as `nvidia-smi topo -m` writes it; None if it is not known."""
    models: tuple[str, ...] = ()
    """What clients call its model; empty if its engine is to be asked."""
    fetches: str = ""
    """The hub's name of the model that its engine may download; empty if it is a directory, or kept elsewhere."""
    pinnable: tuple[Repository, ...] = ()
    """All that its engine ever fetches, so that without the hub it can start too; empty if that is not known."""
    rank: int = 0
    """Its number in the run, of all models: ports that are fixed are offset by it, so that no two have the same."""
    shares: str = ""
    """The same for replicas of which one is to compile the model for all; empty if it starts with nobody's help."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One run."""

    model: str
    """For people: all of them, if there are several."""
    engine: str
    """For people: `vllm 0.32.0`, `sim`."""
    replicas: tuple[Replica, ...]
    listen: Listen
    gateway: Command
    """Complete but for `--listen-fd N`: the supervisor opens the sockets and adds one for each."""
    files: Mapping[Path, str]
    """Text files to write, with mode 0600, in the run's directory before anything starts.

    The endpoint's API keys (`directory.keys`, which the gateway's command names) and the engines' copy of `--config`.
    """
    shutdown_timeout_seconds: float
    """How long streams may go on after SIGTERM."""
    directory: RunDirectory
    more: Callable[[Sequence[Replica], int, str], tuple[Replica, ...]]
    """So many further replicas beside the given ones, on GPUs that those leave free, of the model that has this name.

    The name is empty where there is one model. Raises DpVllmError with a sentence if there cannot be so many.
    """
    hang_timeout_seconds: float = HANG_SECONDS
    """How long an engine may have requests and do nothing; 0 for ever."""
    warnings: tuple[str, ...] = ()
    """Sentences that the user is told before the start."""

    @property
    def name(self) -> str:
        """The run's name."""
        return self.directory.name
