"""Faults that can be asked for: which there are, which are on, and which one a request is struck by.

They are named at the start (`--sim-fault`, `DP_VLLM_SIM_FAULT`) by their kind or as JSON, or while it runs:

    curl -X POST   .../sim/fault -d '{"kind": "cut", "after": 3, "count": 1}'     switch one on, or a list of them
    curl -X GET    .../sim/fault                                                 what is on, and how often each struck
    curl -X DELETE .../sim/fault                                                 switch all off (or ?kind=cut)

Nothing here acts; `breakage` does.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from dp_vllm.errors import BadSettings

BOOT: Final = {
    "fail-at-boot": "end while the weights load: exit status `status` (else 1), last words `message`",
    "orphan": "leave a child that ignores SIGTERM in a session of its own",
    "ignore-sigterm": "SIGTERM and SIGINT do nothing",
}
SERVER: Final = {
    "refuse": "close the listener, so that connections are refused, for `seconds` if given",
    "hung": "the engine stands still: /health 200, /load > 0, no counter moves",
    "slow": "each step takes `factor` (else 10) times as long",
    "slow-health": "/health answers after `seconds`",
    "engine-dead": "the engine dies as vLLM's does: errors for all, and the server exits after `seconds` (else 2)",
    "die": "send `signal` (else KILL) to this process now",
}
HEAD: Final = {
    "hang-head": "take the request and never answer",
    "close": "take the request and close the connection without a byte",
    "die-at-request": "send `signal` to this process when a request has come",
    "status": "answer `status` (else 500) with `message`",
    "busy": "answer 503 in vLLM's words for a full queue",
    "draining": "answer 500 in vLLM's words for a server that was told to end",
    "garbage": "answer bytes that are not HTTP",
    "two-responses": "answer twice in one write",
    "huge-header": "answer with a head of 10 MB",
    "wrong-length": "answer with a Content-Length larger than the body, then close",
    "close-delimited": "answer half a body that only the end of the connection ends",
    "interim": "send 103 and 100 before the real answer",
}
BODY: Final = {
    "hang-stream": "stop sending after `after` chunks",
    "cut": "end the connection (FIN) after `after` chunks",
    "reset": "reset the connection (RST) after `after` chunks",
    "cut-chunked": "end the connection in the middle of a chunk, after `after` chunks",
    "die-mid-stream": "send `signal` to this process after `after` chunks",
    "abort": "end with finish_reason abort after `after` tokens",
}
KINDS: Final = BOOT | SERVER | HEAD | BODY


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One fault that is asked for."""

    kind: str
    count: int | None = None
    """How many requests it strikes; None: all until it is switched off."""
    path: str = ""
    """Strike paths that begin so; empty: those that need the engine."""
    after: int = 0
    """Chunks, or tokens, that still come through."""
    status: int | None = None
    message: str = ""
    seconds: float | None = None
    factor: float = 10.0
    signal: str = "KILL"

    @property
    def signal_number(self) -> int:
        return signal.Signals[f"SIG{self.signal.removeprefix('SIG')}"]


def parse(text: str) -> list[Fault]:
    """A kind, or JSON: an object or a list of them. Raises BadSettings that says what is allowed."""
    text = text.strip()
    try:
        value = msgspec.json.decode(text) if text.startswith(("{", "[")) else {"kind": text}
    except msgspec.DecodeError as error:
        raise BadSettings(f"fault {text!r} is not JSON: {error}") from error
    return [read(entry) for entry in (value if isinstance(value, list) else [value])]


def read(value: Any) -> Fault:
    """One fault from its JSON object. Raises BadSettings."""
    try:
        fault = msgspec.convert(value, Fault)
        _ = fault.signal_number
    except (msgspec.ValidationError, KeyError) as error:
        raise BadSettings(f"fault {value!r}: {error}") from error
    if fault.kind not in KINDS:
        raise BadSettings(f"fault kind {fault.kind!r} is not known; there are {', '.join(KINDS)}")
    return fault


@dataclass(slots=True)
class _Active:
    fault: Fault
    struck: int = 0

    @property
    def spent(self) -> bool:
        return self.fault.count is not None and self.struck >= self.fault.count


class Faults:
    """The faults that are on."""

    def __init__(self) -> None:
        self._active: list[_Active] = []

    def add(self, fault: Fault) -> None:
        """Switch a fault on; another of its kind on the same path is replaced."""
        self._active = [one for one in self._active if (one.fault.kind, one.fault.path) != (fault.kind, fault.path)]
        self._active.append(_Active(fault))

    def remove(self, kind: str | None) -> list[Fault]:
        """Switch off one kind, or all; those that were on."""
        gone = [one.fault for one in self._active if kind in (None, one.fault.kind)]
        self._active = [one for one in self._active if one.fault not in gone]
        return gone

    def get(self, kind: str) -> Fault | None:
        """The fault of this kind, if one is on."""
        return next((one.fault for one in self._active if one.fault.kind == kind), None)

    def strike(self, kinds: Iterable[str], path: str, *, works: bool) -> Fault | None:
        """The first fault of these kinds that a request on this path is struck by; it counts as struck."""
        for one in self._active:
            fault = one.fault
            hit = path.startswith(fault.path) if fault.path else works
            if fault.kind in kinds and hit and not one.spent:
                one.struck += 1
                return fault
        return None

    def report(self) -> list[dict[str, Any]]:
        """What is on, with `struck`: how many requests each has hit."""
        return [as_json(one.fault) | {"struck": one.struck} for one in self._active]


def as_json(fault: Fault) -> dict[str, Any]:
    """The fault's fields, without those that were left at their defaults."""
    fields: dict[str, Any] = msgspec.to_builtins(fault)
    return fields
