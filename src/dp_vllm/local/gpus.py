"""Which GPUs a run may use, and which of them each replica gets.

`CUDA_VISIBLE_DEVICES` says it, or NVML is asked. NVML can hang with a sick driver and takes the asking process with it,
so a child of ours asks, which may be given up: `python -m dp_vllm.local.gpus` prints what it found as JSON.
"""

import contextlib
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from dp_vllm.engine.command import Engine, Sizes
from dp_vllm.errors import BadSettings, UserError

VARIABLE: Final = "CUDA_VISIBLE_DEVICES"
NVML_SECONDS: Final = 5.0
_PROBE: Final = (sys.executable, "-I", "-m", "dp_vllm.local.gpus")
_NONE: Final = ("", "-1", "NoDevFiles")
"""How the variable says that there are no GPUs."""
_INSTEAD: Final = f"say which GPUs to use with {VARIABLE}=0,1,..., or try --engine sim, which needs none"


@dataclass(frozen=True, slots=True)
class Visible:
    """The GPUs that a run may use."""

    ids: tuple[str, ...]
    """Indexes, UUIDs or MIG names, as CUDA_VISIBLE_DEVICES takes them."""
    said_by: str
    """`CUDA_VISIBLE_DEVICES`, `--device-ids`, `this machine`."""
    advice: str = ""
    """What is said if they are too few."""

    def __str__(self) -> str:
        listed = f" ({','.join(self.ids)})" if self.ids else ""
        return f"{self.said_by} has {len(self.ids)}{listed}"


def visible_to(engine: Engine, device_ids: Sequence[str], environ: Mapping[str, str]) -> Visible | None:
    """The GPUs that the replicas of this engine share; None if it uses none.

    The simulated engine needs none, but takes part in the arithmetic where GPUs were named, so that a command line can
    be rehearsed. Raises BadSettings for names that cannot be, UserError if the machine's GPUs cannot be found.
    """
    if not engine.uses_gpus and not engine.simulated:
        if device_ids:
            raise BadSettings(f"--device-ids: {','.join(device_ids)} cannot be used, {engine.name} runs without GPUs")
        return None
    variable = from_variable(environ)
    named = chosen(device_ids, variable) if device_ids else variable
    if engine.simulated:
        return (
            replace(named, advice=f"; the simulated engine needs none: unset {VARIABLE}")
            if named and named.ids
            else None
        )
    return of_machine() if named is None else named


def from_variable(environ: Mapping[str, str]) -> Visible | None:
    """What CUDA_VISIBLE_DEVICES says; None if it is not set.

    Raises BadSettings for an entry that CUDA would silently stop at, and for one that is there twice.
    """
    given = environ.get(VARIABLE)
    if given is None:
        return None
    if given.strip() in _NONE:
        return Visible((), VARIABLE)
    ids = tuple(one.strip() for one in given.split(","))
    for one in ids:
        if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", one):
            raise BadSettings(f"{VARIABLE}: {one!r} in {given!r} is neither an index nor begins with GPU- or MIG-")
    twice = [one for one in ids if ids.count(one) > 1]
    if twice:
        raise BadSettings(f"{VARIABLE}: {twice[0]} is there twice in {given!r}; each GPU can be used once")
    return Visible(ids, VARIABLE)


def chosen(device_ids: Sequence[str], variable: Visible | None) -> Visible:
    """What `--device-ids` picks: indexes within CUDA_VISIBLE_DEVICES if that is set, else the machine's own; or UUIDs.

    Raises BadSettings for a GPU that the variable does not have.
    """
    if variable is None:
        return Visible(tuple(device_ids), "--device-ids")
    if all(one.isdigit() for one in device_ids):
        beyond = [one for one in device_ids if int(one) >= len(variable.ids)]
        if beyond:
            raise BadSettings(f"--device-ids: there is no GPU {beyond[0]}, counted from 0: {variable}")
        return Visible(tuple(variable.ids[int(one)] for one in device_ids), "--device-ids")
    by_index = any(one.isdigit() for one in variable.ids)
    missing = [one for one in device_ids if one not in variable.ids]
    if missing and not by_index:
        raise BadSettings(f"--device-ids: {missing[0]} is not among the visible GPUs: {variable}")
    return Visible(tuple(device_ids), "--device-ids")


def of_machine(probe: Sequence[str] = _PROBE, limit_seconds: float = NVML_SECONDS) -> Visible:
    """All GPUs of this machine, as NVML counts them. Raises UserError if it cannot or does not say in time."""
    process = subprocess.Popen(probe, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    try:
        output, _ = process.communicate(timeout=limit_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=0.5)  # a process that hangs in the driver cannot be waited for
        raise UserError(
            f"the GPU driver did not say within {limit_seconds:g} s which GPUs there are "
            f"(does nvidia-smi hang too?); {_INSTEAD}"
        ) from None
    try:
        answer = msgspec.json.decode(output, type=_Answer)
    except msgspec.DecodeError:
        answer = _Answer(problem=f"asking the driver ended with status {process.returncode}")
    if answer.problem:
        raise UserError(f"no GPUs were found: {answer.problem}; {_INSTEAD}")
    if answer.divided:
        raise UserError(
            f"GPU {answer.divided[0]} is divided (MIG), so its parts must be named: set {VARIABLE}=MIG-...,MIG-... "
            "to the names that `nvidia-smi -L` prints"
        )
    return Visible(tuple(map(str, range(answer.count))), "this machine")


def groups(visible: Visible, copies: int, sizes: Sizes) -> tuple[tuple[str, ...], ...]:
    """The GPUs of each copy, in the order in which they are visible; what is left over stays unused.

    Raises UserError with the arithmetic if there are too few.
    """
    needed = copies * sizes.gpus
    if needed > len(visible.ids):
        factors = {"dp": copies, "tp": sizes.tensor, "pp": sizes.pipeline}
        if sizes.prefill_context > 1:
            factors["pcp"] = sizes.prefill_context
        numbers = "*".join(map(str, factors.values()))
        raise UserError(f"needs {'*'.join(factors)} = {numbers} = {needed} GPUs, {visible}{visible.advice}")
    return tuple(visible.ids[start : start + sizes.gpus] for start in range(0, needed, sizes.gpus))


class _Answer(msgspec.Struct):
    """What the child found."""

    count: int = 0
    divided: list[int] = []
    problem: str = ""


def _ask() -> _Answer:
    import pynvml  # here, so that a broken driver library can only hurt the child

    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        divided = [index for index in range(count) if _is_divided(pynvml.nvmlDeviceGetHandleByIndex(index))]
    except pynvml.NVMLError_LibraryNotFound:
        return _Answer(problem="there is no NVIDIA driver here (in docker, `--gpus all` brings it in)")
    except pynvml.NVMLError as error:
        return _Answer(problem=f"the NVIDIA driver says: {error}")
    return _Answer(count, divided)


def _is_divided(handle: object) -> bool:
    import pynvml

    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError:  # a GPU that cannot be divided
        return False
    return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(_ask()))
