"""This machine's GPUs and what joins them, asked of the driver in a child that may be given up."""

import contextlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from dp_vllm import inherited
from dp_vllm.topology.link import link
from dp_vllm.topology.matrix import Gpu, Matrix
from dp_vllm.topology.nvml import Device, Devices, Joints

LIMIT_SECONDS: Final = 5.0
"""How long the driver may take; a healthy one with eight GPUs needs one or two seconds when nothing else uses them."""
_PROBE: Final = (sys.executable, "-I", "-m", "dp_vllm.topology.nvml")


@dataclass(frozen=True, slots=True)
class Machine:
    """What the driver said."""

    devices: tuple[Device, ...] = ()
    """By index."""
    problem: str = ""
    """Why nothing is known of the GPUs; empty if they are known."""
    matrix: Matrix | None = None
    unjoined: str = ""
    """Why there is no matrix; empty if there is one."""


def ask(environ: Mapping[str, str], probe: Sequence[str] = _PROBE, limit_seconds: float = LIMIT_SECONDS) -> Machine:
    """Ask the driver. Takes up to the limit, and never fails: what is not known is told in the answer."""
    output, silence = output_of(probe, environ, limit_seconds)
    return _understood(output, silence)


def output_of(probe: Sequence[str], environ: Mapping[str, str], limit_seconds: float) -> tuple[bytes, str]:
    """What a program that asks the driver wrote within the limit, and what is to be said if that is nothing."""
    process = subprocess.Popen(
        probe,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=inherited.by_driver_probe(environ),
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit_seconds)
        silence = f"asking the driver ended with status {process.returncode}"
    except subprocess.TimeoutExpired as error:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=0.5)  # a process that hangs in the driver cannot be waited for
        output = error.output or b""
        silence = f"the driver did not answer within {limit_seconds:g} s (does nvidia-smi hang too?)"
    return output, silence


def _understood(output: bytes, silence: str) -> Machine:
    first, _, second = output.partition(b"\n")
    try:
        found = msgspec.json.decode(first, type=Devices)
    except msgspec.DecodeError:
        found = Devices(problem=silence)
    if found.problem:
        return Machine(problem=found.problem, unjoined=found.problem)
    if len(found.devices) < 2:  # nothing to join
        gpus = tuple(map(Gpu, range(len(found.devices))))
        return Machine(found.devices, matrix=Matrix(gpus, ((None,),) * len(gpus)))
    try:
        joints = msgspec.json.decode(second, type=Joints)
    except msgspec.DecodeError:
        joints = Joints(problem=silence)
    if joints.problem:
        return Machine(found.devices, unjoined=joints.problem)
    return Machine(found.devices, matrix=_matrix(joints))


def _matrix(joints: Joints) -> Matrix:
    gpus = tuple(Gpu(index, *near) for index, near in enumerate(zip(joints.numa, joints.cpus, strict=True)))
    return Matrix(gpus, tuple(tuple(None if code == "X" else link(code) for code in row) for row in joints.links))
