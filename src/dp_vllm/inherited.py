"""Which of our environment variables a child inherits: what it needs, and nothing else. Pure.

Engines download models and read objects from stores that their libraries log in to by variables (`HF_TOKEN`, `AWS_*`,
whatever a plugin reads), so they inherit all but the endpoint's own. Every other child is a program of ours that logs
in nowhere: it inherits what an interpreter and its libraries need to run.
"""

from collections.abc import Iterable, Mapping
from typing import Final

_FOREIGN: Final = (
    "VLLM_API_KEY",  # the endpoint's; engines have no key
    "VLLM_PORT",  # not the HTTP port: a base for internal ones, the same for all replicas
    "VLLM_PORT_",  # together with the next: what Kubernetes sets where a Service is called vllm
    "VLLM_SERVICE_",
    "VLLM_DP_",  # would make a replica one rank of a data-parallel engine
    "DP_VLLM_",  # ours
    "PROMETHEUS_MULTIPROC_DIR",  # each engine makes and wipes its own without it; in one, all would be added up
)
"""Variables that no engine inherits."""

_HELPERS: Final = (
    *("PATH", "LD_", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TEMP", "TMP", "TZ", "TZDIR", "HOSTNAME"),
    *("LANG", "LANGUAGE", "LC_", "TERM", "COLORTERM", "NO_COLOR", "COLUMNS", "LINES"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "OPENSSL_CONF", "MALLOC_", "MIMALLOC_", "GLIBC_TUNABLES", "PYTHONFAULTHANDLER"),
)
"""What every child inherits."""

_DRIVER: Final = ("CUDA_", "NVIDIA_", "NVML_")
"""What a child that asks the GPU driver inherits beside that."""

_SIMULATOR: Final = ("VLLM_",)
"""What a simulated engine inherits beside that: the variables of vLLM that it knows."""


def kept_from_engine(environ: Iterable[str]) -> tuple[str, ...]:
    """The names of these variables that no engine inherits."""
    return tuple(sorted(name for name in environ if _is_one_of(name, _FOREIGN)))


def by_helper(environ: Iterable[str]) -> tuple[str, ...]:
    """The names of these variables that the gateway, guardians and doors inherit."""
    return _named(environ, _HELPERS)


def by_driver_probe(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child that asks the GPU driver."""
    return {name: environ[name] for name in _named(environ, (*_HELPERS, *_DRIVER))}


def by_simulator(environ: Iterable[str]) -> tuple[str, ...]:
    """The names of these variables that a simulated engine inherits."""
    return tuple(name for name in _named(environ, (*_HELPERS, *_DRIVER, *_SIMULATOR)) if not _is_one_of(name, _FOREIGN))


def _named(environ: Iterable[str], patterns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(name for name in environ if _is_one_of(name, patterns)))


def _is_one_of(name: str, patterns: tuple[str, ...]) -> bool:
    """A pattern that ends with `_` stands for all names that begin with it."""
    return any(name == one or (one.endswith("_") and name.startswith(one)) for one in patterns)
