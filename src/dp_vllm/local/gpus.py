"""Which GPUs a run may use, and which of them each replica gets.

`CUDA_VISIBLE_DEVICES` says it, or Slurm, or all of the machine are taken. The driver is asked what joins them, so that
each replica gets GPUs with fast links between them (`dp_vllm.topology`); where it does not say, it is index order.
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dp_vllm.engine.command import Engine, Sizes
from dp_vllm.errors import BadSettings, UserError
from dp_vllm.local.slurm.allocation import advice_on_gpus, gpus_of_step
from dp_vllm.topology import given, ids, machine
from dp_vllm.topology.group import best
from dp_vllm.topology.link import Link
from dp_vllm.topology.machine import Machine
from dp_vllm.topology.matrix import Matrix
from dp_vllm.topology.near import near
from dp_vllm.topology.shape import Shape, product

VARIABLE: Final = "CUDA_VISIBLE_DEVICES"
TASKSET: Final = "taskset"
"""The program of util-linux that keeps another one to some CPUs."""
THIS_MACHINE: Final = "this machine"
"""Who says which GPUs there are, if nobody else does."""
_ORDER: Final = "CUDA_DEVICE_ORDER"
_DRIVERS_ORDER: Final = "PCI_BUS_ID"
_NONE: Final = ("", "-1", "NoDevFiles")
"""How the variable says that there are no GPUs."""
_NAME: Final = re.compile(r"\d+|(GPU|MIG)-\S+")
_NO_NAME: Final = "is neither an index nor begins with GPU- or MIG-"
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
    typed: tuple[str, ...] = ()
    """The same GPUs as they were named by who said it, where that is another way."""
    matrix: Matrix | None = None
    """What joins them, in the same order; None if that is not known."""
    doubt: str = ""
    """Why it is not known."""
    cpus: frozenset[int] = frozenset()
    """CPUs that engines may be kept to; none where they cannot."""
    cards: tuple[str, ...] = ()
    """What the driver calls them, in the same order, whoever counts how; empty if it was not asked."""

    def __str__(self) -> str:
        listed = f" ({','.join(self.ids)})" if self.ids else ""
        return f"{self.said_by} has {len(self.ids)}{listed}"


@dataclass(frozen=True, slots=True)
class Share:
    """The GPUs of one copy."""

    gpus: tuple[str, ...]
    """In the order of the engine's ranks."""
    worst_link: Link | None = None
    """The slowest between any two of them; None for one GPU, and where links are not known."""
    cpus: str = ""
    """CPUs next to all of them, `0-31,64-95`; empty if there is no reason to keep the engine to some."""


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
    if engine.simulated:
        of_step = next((Visible(names, variable) for variable, names in gpus_of_step(environ)), None)
        named = chosen(device_ids, variable) if device_ids else variable or of_step
        advice = advice_on_gpus(environ) or f"; the simulated engine needs none: unset {VARIABLE}"
        return replace(named, advice=advice) if named and named.ids else None
    there = visible_on(machine.ask(environ), device_ids, environ)
    cpus = frozenset(os.sched_getaffinity(0)) if shutil.which(TASKSET) else frozenset()
    return replace(there, cpus=cpus, advice=advice_on_gpus(environ))


def visible_on(found: Machine, device_ids: Sequence[str], environ: Mapping[str, str]) -> Visible:
    """Which of a machine's GPUs may be used. Raises as `visible_to` does."""
    variable = from_variable(environ)
    within = located(variable, found, environ) if variable else from_slurm(environ, found)
    if not device_ids:
        return within or located(of_machine(found), found, environ)
    picked = located(chosen(device_ids, within), found, environ)
    if within and within.typed and picked.typed and not set(picked.ids) <= set(within.ids):
        outside = next(name for name, one in zip(picked.typed, picked.ids, strict=True) if one not in within.ids)
        raise BadSettings(f"--device-ids: {outside} is not among the visible GPUs: {within}")
    return picked


def from_variable(environ: Mapping[str, str]) -> Visible | None:
    """What CUDA_VISIBLE_DEVICES says; None if it is not set.

    Raises BadSettings for an entry that CUDA would silently stop at, and for one that is there twice.
    """
    named = environ.get(VARIABLE)
    if named is None:
        return None
    if named.strip() in _NONE:
        return Visible((), VARIABLE)
    names = tuple(one.strip() for one in named.split(","))
    for one in names:
        if not _NAME.fullmatch(one):
            raise BadSettings(f"{VARIABLE}: {one!r} in {named!r} {_NO_NAME}")
    twice = [one for one in names if names.count(one) > 1]
    if twice:
        raise BadSettings(f"{VARIABLE}: {twice[0]} is there twice in {named!r}; each GPU can be used once")
    return Visible(names, VARIABLE)


def from_slurm(environ: Mapping[str, str], found: Machine) -> Visible | None:
    """The GPUs of a Slurm job where CUDA_VISIBLE_DEVICES was lost; None outside of one.

    Slurm counts all GPUs of the node. Where its cgroup hides the others, those that are left are the job's.
    """
    count = len(found.devices)
    for variable, names in gpus_of_step(environ):
        if len(names) < count and all(int(one) < count for one in names):
            return located(Visible(names, variable), found, environ)
    return None


def chosen(device_ids: Sequence[str], variable: Visible | None) -> Visible:
    """What `--device-ids` picks: indexes within CUDA_VISIBLE_DEVICES if that is set, else the machine's own; or UUIDs.

    Raises BadSettings for a GPU that the variable does not have, and for what cannot be one.
    """
    for one in device_ids:
        if not _NAME.fullmatch(one):
            raise BadSettings(f"--device-ids: {one!r} {_NO_NAME}")
    if variable is None:
        return Visible(tuple(device_ids), "--device-ids")
    if all(one.isdigit() for one in device_ids):
        beyond = [one for one in device_ids if int(one) >= len(variable.ids)]
        if beyond:
            raise BadSettings(f"--device-ids: there is no GPU {beyond[0]}, counted from 0: {variable}")
        return Visible(tuple(variable.ids[int(one)] for one in device_ids), "--device-ids")
    names = (*variable.ids, *variable.typed)
    by_index = any(one.isdigit() for one in names)
    missing = [one for one in device_ids if one not in names]
    if missing and not by_index:
        raise BadSettings(f"--device-ids: {missing[0]} is not among the visible GPUs: {variable}")
    return Visible(tuple(device_ids), "--device-ids")


def of_machine(found: Machine) -> Visible:
    """All GPUs of this machine, as the driver counts them. Raises UserError if it does not say which there are."""
    if found.problem:
        raise UserError(f"no GPUs were found: {found.problem}; {_INSTEAD}")
    return Visible(tuple(map(str, range(len(found.devices)))), THIS_MACHINE)


def located(visible: Visible, found: Machine, environ: Mapping[str, str]) -> Visible:
    """The same GPUs with what joins them, each by its index: some vLLMs end at a UUID, and all at a short one.

    Raises BadSettings with the name of a GPU that this machine does not have, or that is another one's, or divided.
    """
    order = environ.get(_ORDER, _DRIVERS_ORDER)
    if found.problem:
        return replace(visible, doubt=found.problem)
    try:
        for one in filter(ids.is_part, visible.ids):
            ids.demand_part(one, found.devices)
        if any(map(ids.is_part, visible.ids)):
            return replace(visible, cards=visible.ids)
        indexes = [ids.index_of(one, found.devices) for one in visible.ids]
    except ValueError as error:
        raise BadSettings(f"{visible.said_by}: {error}") from error
    if order != _DRIVERS_ORDER and any(one.isdigit() for one in visible.ids):
        return replace(visible, doubt=f"{_ORDER}={order} counts GPUs in another order than the driver")
    for place, index in enumerate(indexes):
        if index in indexes[:place]:
            same = visible.ids[indexes.index(index)]
            raise BadSettings(f"{visible.said_by}: {same} and {visible.ids[place]} are the same GPU")
        if found.devices[index].divided:
            parts = ",".join(found.devices[index].parts) or "MIG-..., as `nvidia-smi -L` lists them"
            raise UserError(f"GPU {index} is divided (MIG), so its parts must be named: set {VARIABLE}={parts}")
    names = map(str, indexes) if order == _DRIVERS_ORDER else (found.devices[index].uuid for index in indexes)
    return replace(
        visible,
        ids=tuple(names),
        typed=visible.ids,
        matrix=found.matrix.of(indexes) if found.matrix else None,
        doubt=found.unjoined,
        cards=tuple(found.devices[index].uuid for index in indexes),
    )


def shares(visible: Visible, copies: int, sizes: Sizes, groups: given.Groups = ()) -> tuple[Share, ...]:
    """The GPUs of each copy: as given, else the best by their links, else in the order in which they are visible.

    What is left over stays unused. Raises UserError with the arithmetic if there are too few, BadSettings for groups
    that cannot be.
    """
    part = next(filter(ids.is_part, visible.ids), None)
    if part and sizes.gpus > 1:
        raise BadSettings(
            f"{part} is a part of a divided GPU (MIG), and parts cannot work together: a replica on {sizes.gpus} GPUs "
            "needs whole ones"
        )
    if groups:
        return _given(visible, copies, sizes, groups)
    needed = copies * sizes.gpus
    if needed > len(visible.ids):
        factors = {"dp": copies, "tp": sizes.tensor, "pp": sizes.pipeline}
        if sizes.prefill_context > 1:
            factors["pcp"] = sizes.prefill_context
        raise UserError(f"needs {product(factors)} GPUs, {visible}{visible.advice}")
    if visible.matrix is None:
        return tuple(Share(visible.ids[start : start + sizes.gpus]) for start in range(0, needed, sizes.gpus))
    shape = Shape(copies, sizes.tensor * sizes.prefill_context, sizes.pipeline)
    return tuple(_share(visible, visible.matrix, group.gpus) for group in best(visible.matrix, shape))


def _given(visible: Visible, copies: int, sizes: Sizes, groups: given.Groups) -> tuple[Share, ...]:
    names = dict(zip(visible.typed, visible.ids, strict=True)) if visible.typed else {}
    named = tuple(tuple(names.get(gpu, gpu) for gpu in group) for group in groups)
    why_not = given.objection(named, copies, sizes.gpus, visible.ids, visible.said_by)
    if why_not:
        raise BadSettings(f"--gpu-groups: {why_not}")
    if visible.matrix is None:
        return tuple(map(Share, named))
    indexes = dict(zip(visible.ids, visible.matrix.indexes, strict=True))
    return tuple(_share(visible, visible.matrix, [indexes[gpu] for gpu in group]) for group in named)


def _share(visible: Visible, matrix: Matrix, gpus: Sequence[int]) -> Share:
    names = dict(zip(matrix.indexes, visible.ids, strict=True))
    return Share(tuple(names[gpu] for gpu in gpus), matrix.worst(gpus), near(matrix, gpus, visible.cpus))
