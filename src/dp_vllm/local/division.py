"""Divides the GPUs that a run may use over the replicas of its models. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from dp_vllm.engine.command import Engine
from dp_vllm.errors import BadSettings, UserError
from dp_vllm.local.gpus import Share, Visible, shares
from dp_vllm.local.models import Model
from dp_vllm.topology import given


def divided(
    models: Sequence[Model], engine: Engine, visible: Visible | None, groups: given.Groups = ()
) -> list[Sequence[Share]]:
    """The GPUs of each replica, for each model; `visible` is None if the engine uses none.

    Of several models those with the larger replicas choose first: what they leave still has good links for small ones,
    more often than the other way round. Raises UserError with the arithmetic if there are too few GPUs.
    """
    visible = _seen(visible, engine, groups)
    if visible is None:
        return [_none(model.copies) for model in models]
    if len(models) > 1:
        _demand_enough([model for model in models if model.uses_gpus], visible)
    found: dict[int, Sequence[Share]] = {}
    for number, model in sorted(enumerate(models), key=lambda numbered: -numbered[1].sizes.gpus):
        _demand_accelerator(model, engine)
        mine = shares(visible, model.copies, model.sizes, groups) if model.uses_gpus else _none(model.copies)
        visible = without(visible, {gpu for share in mine for gpu in share.gpus})
        found[number] = mine
    return [found[number] for number in range(len(models))]


def further(
    model: Model,
    engine: Engine,
    visible: Visible | None,
    taken: Collection[str],
    copies: int,
    groups: given.Groups = (),
) -> Sequence[Share]:
    """The GPUs of so many more replicas of a model, of those that are not taken. Raises DpVllmError as `divided`."""
    visible = _seen(visible, engine, groups)
    if visible is None or not model.uses_gpus:
        return _none(copies)
    if groups:
        return left_over(shares(visible, len(groups), model.sizes, groups), taken, copies)
    return shares(without(visible, taken), copies, model.sizes)


def without(visible: Visible, taken: Collection[str]) -> Visible:
    """The same, less GPUs that are in use."""
    if not taken:
        return visible
    places = [place for place, one in enumerate(visible.ids) if one not in taken]
    matrix = visible.matrix
    return replace(
        visible,
        ids=tuple(visible.ids[place] for place in places),
        said_by=f"{visible.said_by} without those in use",
        typed=tuple(visible.typed[place] for place in places) if visible.typed else (),
        matrix=matrix.of(matrix.indexes[place] for place in places) if matrix else None,
    )


def left_over(given_shares: Sequence[Share], taken: Collection[str], copies: int) -> Sequence[Share]:
    """So many of the groups that were given, none with a GPU in use. Raises BadSettings if there are too few."""
    left = [share for share in given_shares if not set(share.gpus) & set(taken)]
    if len(left) < copies:
        raise BadSettings(
            f"--gpu-groups: {len(given_shares)} groups were given, of which {len(left)} are free, and {copies} more "
            "would be needed; start the run anew with more groups"
        )
    return left[:copies]


def _seen(visible: Visible | None, engine: Engine, groups: given.Groups) -> Visible | None:
    if visible is None and groups and engine.simulated:
        # So that a command line can be rehearsed.
        return Visible(tuple(sorted({gpu for group in groups for gpu in group})), "--gpu-groups")
    if visible is None and groups:
        raise BadSettings(
            f"--gpu-groups: {';'.join(map(','.join, groups))} cannot be used, {engine.name} runs without GPUs"
        )
    return visible


def _none(copies: int) -> list[Share]:
    return [Share(())] * copies


def _demand_accelerator(model: Model, engine: Engine) -> None:
    if not model.uses_gpus and not engine.simulated:
        raise BadSettings(
            f"{model.model}: spec.engine.accelerator is none, and {engine.name} needs GPUs; name a vLLM that was built "
            "for CPUs with --engine PATH, or leave the field out"
        )


def _demand_enough(models: Sequence[Model], visible: Visible) -> None:
    needed = sum(model.copies * model.sizes.gpus for model in models)
    if needed > len(visible.ids):
        factors = [f"{model.copies}*{model.sizes.tensor}*{model.sizes.pipeline} ({model.name})" for model in models]
        raise UserError(f"needs dp*tp*pp = {' + '.join(factors)} = {needed} GPUs, {visible}{visible.advice}")
