"""The flags of `vllm serve` that a DPModel's `engine.args` may not have, and the field to use instead.

They have a field of their own, or would make a replica that nobody reaches. One table is behind both checks: the API
server's (`dp_vllm.crd_rules`), which looks at each word, and `refusal`, which reads them as vLLM would. Pure.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dp_vllm.engine.flags import Flag, Flags, Takes, vllm_flags

_FLAGS: Final = Flags(vllm_flags(), further=(Flag("--help", Takes.NOTHING, ("-h",)),))

TWO_IN_ONE: Final = r"^--?[A-Za-z][-_A-Za-z0-9]*\s"
"""A flag and its value in one word."""


@dataclass(frozen=True, slots=True)
class Owned:
    """Flags that are refused for the same reason."""

    flags: tuple[str, ...]
    """Long names. One that ends with `-` stands for all that begin with it."""
    instead: str
    """What to do instead: one clause."""

    def has(self, name: str) -> bool:
        return any(name.startswith(flag) if flag.endswith("-") else name == flag for flag in self.flags)

    @property
    def shown(self) -> tuple[str, ...]:
        """Its flags for people, short names too: `-tp`, `--tensor-parallel-size`, `--ssl-*`."""
        short = sorted(s for s in _FLAGS.spellings if not s.startswith("--") and _FLAGS[s].name in self.flags)
        return (*short, *(f"{flag}*" if flag.endswith("-") else flag for flag in self.flags))


OWNED: Final = (
    Owned(("--tensor-parallel-size",), "use spec.tensorParallelSize"),
    Owned(("--pipeline-parallel-size",), "use spec.pipelineParallelSize"),
    Owned(("--model",), "use spec.model"),
    Owned(("--served-model-name",), "use spec.servedModelName"),
    Owned(("--api-key",), "use spec.apiKeySecretRef: the gateway asks clients for a key, engines have none"),
    Owned(
        ("--data-parallel-", "--api-server-count"),
        "use spec.replicas: each replica is one engine with one API server, and the gateway spreads requests",
    ),
    Owned(("--hf-token",), "use spec.hfTokenSecretRef"),
    Owned(
        ("--host", "--port", "--uds"),
        "leave it out: a replica listens where its gateway looks for it, and clients use spec.gateway.service",
    ),
    Owned(
        ("--ssl-", "--enable-ssl-refresh"),
        "leave it out: the gateway speaks plain HTTP with replicas; TLS belongs before the Service, as in an Ingress",
    ),
    Owned(
        ("--allowed-origins", "--allowed-methods", "--allowed-headers", "--allow-credentials"),
        "use spec.gateway.allowedOrigins: the gateway decides which web pages may use the endpoint",
    ),
    Owned(("--shutdown-timeout",), "use spec.rollout.drainTimeoutSeconds"),
    Owned(
        ("--prefill-context-parallel-size", "--device-ids"),
        "leave it out: a replica gets tensorParallelSize * pipelineParallelSize accelerators, and uses all of them",
    ),
    Owned(
        ("--nnodes", "--node-rank", "--master-addr", "--master-port", "--headless"),
        "leave it out: a replica is one pod on one node",
    ),
    Owned(("--grpc", "--grpc-port"), "leave it out: the gateway speaks HTTP with replicas"),
    Owned(
        ("--no-enable-server-load-tracking",),
        "leave it out: draining and the search for hung engines count an engine's requests",
    ),
    Owned(("--help",), "leave it out: vLLM would print its flags and end"),
)


@dataclass(frozen=True, slots=True)
class Words:
    """How the flags of one `Owned` can be typed, underscores as dashes and without what follows `=`."""

    whole: tuple[str, ...]
    beginnings: tuple[str, ...]
    """Any word that begins so is meant: `-tp` for `-tp2`."""

    def have(self, word: str) -> bool:
        name = word.partition("=")[0].replace("_", "-")
        return name in self.whole or name.startswith(self.beginnings)


@functools.cache
def words(owned: Owned) -> Words:
    """Every spelling that stands for one of the flags and for no flag that is allowed."""
    whole, beginnings = [], [flag for flag in owned.flags if flag.endswith("-")]
    for spelling in (one for one in _FLAGS.spellings if owned.has(_named(one))):
        mine = [typed for end in range(2, len(spelling) + 1) if _owner(typed := spelling[:end]) is owned]
        if spelling.startswith("--"):
            whole += mine
        else:
            beginnings += [next(typed for typed in mine if all(owned.has(_named(one)) for one in _meanings(typed)))]
            whole += [typed for typed in mine if not typed.startswith(beginnings[-1])]
    return Words(
        tuple(dict.fromkeys(word for word in whole if not word.startswith(tuple(beginnings)))),
        tuple(dict.fromkeys(beginnings)),
    )


def _meanings(typed: str) -> list[str]:
    """The spellings that a word stands for when written out; several if it is an ambiguous abbreviation."""
    known = _FLAGS.spellings
    return [typed] if typed in known else [spelling for spelling in known if spelling.startswith(typed)]


def _owner(typed: str) -> Owned | None:
    """The first that owns a meaning of the word; None if it may mean a flag that is allowed."""
    meanings = [_named(spelling) for spelling in _meanings(typed)]
    if not all(_is_owned(name) for name in meanings):
        return None
    return next((owned for owned in OWNED if any(map(owned.has, meanings))), None)


def _is_owned(name: str) -> bool:
    return any(owned.has(name) for owned in OWNED)


def _named(spelling: str) -> str:
    """The long name that a spelling is of; a `--no-` twin is its own."""
    return spelling if spelling.startswith("--no-") else _FLAGS[spelling].name


def refusal(args: Sequence[str]) -> tuple[int, str] | None:
    """The first of `args` that cannot be taken, by its number, and why; None if all can be."""
    for number, word in enumerate(args):
        for owned in OWNED:
            if words(owned).have(word):
                return number, owned.instead
        if number == 0 and not word.startswith("-"):
            return number, "no flag is before it; the model is spec.model"
        if word == "--":
            return number, "leave it out"
        if re.match(TWO_IN_ONE, word):
            return number, "a flag and its value are two items, or one joined by ="
        (item,) = _FLAGS.read((word,))
        if any(_is_owned(_named(spelling)) for spelling in item.candidates):
            return number, f"it may mean {' or '.join(item.candidates)}; write it out"
    return None
