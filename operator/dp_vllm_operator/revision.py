"""Which stored revision the present spec needs, or that it needs a new one. Pure; knows nothing of how pods look.

A revision holds the user's part of a spec and the pod template that was rendered from it. Two user's parts are the same
if today's code renders them to the same template: a change that no pod shows, another operator, another default
image and another address to listen on make no new revision.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import msgspec
from msgspec import UNSET, UnsetType

from dp_vllm import names
from dp_vllm.spec import BadSpec, Cache, Engine, HfTokenKey
from dp_vllm_operator.model import Model
from dp_vllm_operator.settings import ALL_IPV4, Settings

COMPONENT: Final = "revision"
PROVEN_ANNOTATION: Final = "dpvllm.io/proven"
"""On a revision: when the model was last Ready with it, as a time that sorts as text."""
STALLED_ANNOTATION: Final = "dpvllm.io/stalled-at"
"""On a revision: when its rollout was found to be stalled, in seconds since the epoch; empty or absent if it is not."""
KEPT: Final = 10
"""So many revisions are kept to go back to."""

Template = dict[str, Any]
Render = Callable[[str, "UserPart"], Template]
"""Makes a pod template from a model's name and a user's part. May raise BadSpec."""


class UserPart(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a pod is rendered from: what the user wrote, and the default of the day for what they left out."""

    model: str
    served_model_name: str | UnsetType = UNSET
    tensor_parallel_size: int
    pipeline_parallel_size: int
    engine: Engine
    cache: Cache
    hf_token_secret_ref: HfTokenKey | UnsetType = UNSET
    template: dict[str, Any] | UnsetType = UNSET
    drain_timeout_seconds: int
    restart: str = ""
    """The value of the restart annotation."""
    default_image: str
    """The image of engines whose spec names none."""
    listen_address: str = ALL_IPV4
    """Where engines listen."""

    @property
    def image(self) -> str:
        return self.default_image if self.engine.image is UNSET else self.engine.image


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One ControllerRevision."""

    number: int
    name: str
    uid: str
    user_part: UserPart | None
    """None if today's code cannot read it."""
    template: Mapping[str, Any]
    proven_at: str
    """When the model was last Ready with it; empty if it never was."""
    stalled_at: float | None = None
    """When its rollout was found to be stalled, in seconds since the epoch."""

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """Read the object's JSON."""
        metadata, data = body["metadata"], body["data"]
        return cls(
            number=body["revision"],
            name=metadata["name"],
            uid=metadata["uid"],
            user_part=_read(data["userPart"]),
            template=data["template"],
            proven_at=metadata.get("annotations", {}).get(PROVEN_ANNOTATION, ""),
            stalled_at=_seconds(metadata.get("annotations", {}).get(STALLED_ANNOTATION, "")),
        )

    @property
    def proven(self) -> bool:
        """Whether the model was Ready with it once."""
        return bool(self.proven_at)


@dataclass(frozen=True, slots=True)
class Existing:
    """The target is a stored revision."""

    number: int


@dataclass(frozen=True, slots=True)
class New:
    """The target has to be stored first."""

    number: int
    user_part: UserPart
    template: Template


@dataclass(frozen=True, slots=True)
class Missing:
    """The user wants to go back to a revision that there is not."""

    asked: str
    stored: tuple[int, ...]

    def __str__(self) -> str:
        there = f"the revisions are {', '.join(map(str, self.stored))}" if self.stored else "no revision is stored yet"
        return f"{names.UNDO_ANNOTATION}: revision {self.asked!r} does not exist; {there}"


def user_part(model: Model, settings: Settings) -> UserPart:
    """What the model's pods are rendered from now."""
    spec = model.spec
    return UserPart(
        model=spec.model,
        served_model_name=spec.served_model_name,
        tensor_parallel_size=spec.tensor_parallel_size,
        pipeline_parallel_size=spec.pipeline_parallel_size,
        engine=spec.engine,
        cache=spec.cache,
        hf_token_secret_ref=spec.hf_token_secret_ref,
        template=spec.template,
        drain_timeout_seconds=spec.rollout.drain_timeout_seconds,
        restart=model.annotations.get(names.RESTART_ANNOTATION, ""),
        default_image=settings.engine_image,
        listen_address=settings.listen_address,
    )


def wanted(
    model: Model, revisions: Sequence[Revision], settings: Settings, render: Render, used: Collection[int] = ()
) -> Existing | New | Missing:
    """The revision that the model's replicas shall be of.

    One that went back to what it was before gets the old revision, whose pods may still be there. The numbers that pods
    bear (`used`) are never given out again. Raises BadSpec if the spec cannot be rendered.
    """
    numbers = tuple(sorted(revision.number for revision in revisions))
    if asked := model.annotations.get(names.UNDO_ANNOTATION):
        found = [number for number in numbers if str(number) == asked.strip()]
        return Existing(found[0]) if found else Missing(asked, numbers)
    present = user_part(model, settings)
    template = render(model.name, present)
    for revision in sorted(revisions, key=lambda revision: -revision.number):
        if _is_same(revision.user_part, present, model.name, render):
            return Existing(revision.number)
    return New(max((*numbers, *used), default=0) + 1, present, template)


def _is_same(stored: UserPart | None, present: UserPart, name: str, render: Render) -> bool:
    if stored is None:
        return False
    present = msgspec.structs.replace(present, default_image=stored.default_image, listen_address=stored.listen_address)
    if stored == present:
        return True
    try:
        return render(name, stored) == render(name, present)
    except BadSpec:
        return False


def last_proven(revisions: Iterable[Revision]) -> int | None:
    """The revision with which the model was Ready last."""
    proven = max((r for r in revisions if r.proven), key=lambda r: (r.proven_at, r.number), default=None)
    return proven.number if proven else None


def surplus(revisions: Iterable[Revision], used: Collection[int]) -> tuple[Revision, ...]:
    """Those to delete: all but the last ones and those that are `used`, by a pod or as the target."""
    newest_first = sorted(revisions, key=lambda revision: -revision.number)
    return tuple(revision for revision in newest_first[KEPT:] if revision.number not in used)


# as objects


def revision_name(model: Model, number: int) -> str:
    return f"{model.name}-{number}"


def controller_revision(model: Model, new: New) -> dict[str, Any]:
    """The object that stores a new revision."""
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": revision_name(model, new.number),
            "namespace": model.namespace,
            "labels": model.labels(COMPONENT),
            "ownerReferences": [model.owner],
        },
        "revision": new.number,
        "data": {"userPart": _written(new.user_part), "template": new.template},
    }


def _read(stored: object) -> UserPart | None:
    try:
        return msgspec.convert(stored, UserPart)
    except msgspec.ValidationError:
        return None


def _written(value: Any) -> Any:
    """With defaults: another release may have others, and would read something else."""
    if isinstance(value, msgspec.Struct):
        fields = zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True)
        given = {name: getattr(value, field) for name, field in fields}
        return {name: _written(field) for name, field in given.items() if field is not UNSET}
    return msgspec.to_builtins(value)


def _seconds(annotation: str) -> float | None:
    """A time as it was annotated; None if it is none, as what somebody else wrote there."""
    try:
        seconds = float(annotation)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None
