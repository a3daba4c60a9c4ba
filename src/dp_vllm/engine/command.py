"""The exact command line and environment of one engine: `vllm serve`, another Python's vllm, or the simulated engine.

Pure: it knows what an engine must be told, not who starts it or on which GPUs it is best placed.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from dp_vllm import inherited
from dp_vllm.engine.flags import Flags, vllm_flags
from dp_vllm.engine.version import Version

KEEP_ALIVE_SECONDS: Final = 75
"""How long an engine keeps an idle connection. vLLM's 5 s would race with the gateway's pool, which keeps it shorter
than this."""

_ADDED: Final = (
    ("--enable-server-load-tracking", ()),  # else /load is always 0
    ("--disable-access-log-for-endpoints", ("/health,/metrics,/load",)),  # the gateway asks for them all the time
)
"""What every engine gets unless its user set it. All supported versions have these flags."""


@dataclass(frozen=True, slots=True)
class Command:
    """A program to start: its words, and how its environment differs from ours."""

    argv: tuple[str, ...]
    variables: Mapping[str, str]
    """What is set in its environment, over what stands there."""
    unset: tuple[str, ...] = ()
    """What is taken out of its environment."""
    inherits: tuple[str, ...] | None = None
    """The only variables of ours that it has; None for all but `unset`."""

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """The whole environment of the program, made from `base` (usually `os.environ`)."""
        names = base if self.inherits is None else [name for name in self.inherits if name in base]
        return {name: base[name] for name in names if name not in self.unset} | dict(self.variables)


@dataclass(frozen=True, slots=True)
class Engine:
    """A program that serves one replica."""

    name: str
    """For people: `vllm 0.32.0`, `sim`."""
    words: tuple[str, ...]
    """The command line up to MODEL."""
    uses_gpus: bool = True
    simulated: bool = False


SIM: Final = Engine("sim", (sys.executable, "-I", "-m", "dp_vllm.sim"), uses_gpus=False, simulated=True)

IMAGE: Final = Engine("image", ())
"""A container image with an engine as its entry point: the command line is what follows that, from MODEL on."""


def vllm(executable: Path, version: Version | None, environ: Mapping[str, str]) -> Engine:
    """The engine that `executable serve` is; a build for CPUs, or one told to be it by the environment, has no GPUs."""
    for_cpu = (version is not None and version.for_cpu) or environ.get("VLLM_TARGET_DEVICE", "").lower() == "cpu"
    name = f"vllm {version.text}" if version else f"vllm at {executable}"
    return Engine(name, (str(executable), "serve"), uses_gpus=not for_cpu)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many GPUs one replica is spread over, and how."""

    tensor: int = 1
    pipeline: int = 1
    prefill_context: int = 1

    @property
    def gpus(self) -> int:
        return self.tensor * self.pipeline * self.prefill_context

    @property
    def words(self) -> tuple[str, ...]:
        """The engine's flags for it, those that are not the default."""
        named = {"tensor": self.tensor, "pipeline": self.pipeline, "prefill-context": self.prefill_context}
        return tuple(
            word for name, size in named.items() if size > 1 for word in (f"--{name}-parallel-size", str(size))
        )


@dataclass(frozen=True, slots=True)
class Order:
    """What all replicas of a deployment have in common."""

    engine: Engine
    model: str
    words: tuple[str, ...]
    """The user's flags for the engine, as typed."""
    flags: frozenset[str]
    """The long names of those flags, and of the ones in `config`."""
    config: Path | None = None
    sizes: Sizes = Sizes()
    variables: Mapping[str, str] = field(default_factory=dict)
    """The user's variables for the engine."""
    served: str = ""
    """What clients call the model where no flag says it and MODEL is not to: an engine that asks no hub takes the path
    in the cache for the model's name. Empty if nothing has to be said."""
    drain_seconds: int = 0
    """So long its requests may go on after SIGTERM, where that may come from others than who waits for them."""


def replica_command(order: Order, address: str, gpus: Sequence[str], environ: Mapping[str, str]) -> Command:
    """The command of one replica that listens on `address` (`unix:/path` or `host:port`) and uses these GPUs.

    Its own words come last: they win over whatever the user typed.
    """
    return Command(
        argv=(
            *order.engine.words,
            order.model,
            *(("--config", str(order.config)) if order.config else ()),
            *order.words,
            *order.sizes.words,
            *(("--served-model-name", order.served) if order.served else ()),
            *(word for name, values in _ADDED if name not in order.flags for word in (name, *values)),
            *(("--shutdown-timeout", str(order.drain_seconds)) if order.drain_seconds else ()),
            *_listening(address),
        ),
        variables={**order.variables, **_variables(gpus, environ)},
        unset=() if order.engine.simulated else inherited.kept_from_engine(environ),
        inherits=inherited.by_simulator(environ) if order.engine.simulated else None,
    )


def container_command(order: Order, address: str) -> Command:
    """The command of one replica in a container of its own, for clients elsewhere.

    It ends at once when it is told to: whoever tells it has waited for its requests, and an engine whose own patience
    runs out never ends.
    """
    command = replica_command(order, address, (), {})
    return replace(command, argv=(*command.argv, "--shutdown-timeout", "0"))


def patience(startup_seconds: int) -> dict[str, str]:
    """Variables that let an engine load for so long; it gives up after ten minutes by itself."""
    return {"VLLM_ENGINE_READY_TIMEOUT_S": str(startup_seconds)}


def flags_in(words: Sequence[str]) -> frozenset[str]:
    """The long names of the flags of vLLM in the words of a command line."""
    return frozenset(item.flag.name for item in known_flags().read(words) if item.flag is not None)


@functools.cache
def known_flags() -> Flags:
    """All flags of vLLM."""
    return Flags(vllm_flags())


def _listening(address: str) -> tuple[str, ...]:
    if address.startswith("unix:"):
        return ("--uds", address.removeprefix("unix:"))
    host, _, port = address.rpartition(":")
    return ("--host", host, "--port", port)


def _variables(gpus: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    variables = {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_SECONDS)}
    if gpus:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        # The order of NVML and nvidia-smi, so that an index means the same GPU to everybody.
        variables["CUDA_DEVICE_ORDER"] = environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    return variables
