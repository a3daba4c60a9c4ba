"""DPModels as values, for tests of what becomes of them."""

from collections.abc import Mapping
from typing import Any, Final

from dp_vllm import spec
from dp_vllm_operator.model import Model
from dp_vllm_operator.render.pod import engine_of, pod_template
from dp_vllm_operator.revision import UserPart, user_part
from dp_vllm_operator.settings import Settings

Json = dict[str, Any]

UID: Final = "5a0c6d0e-2f0f-4b7e-9a53-1c5a3c1e7f00"
SETTINGS: Final = Settings(
    engine_image="vllm/vllm-openai:v0.32.0", gateway_image="dp-vllm/gateway:0.1.0", identity="operator-0"
)


def model(
    *,
    name: str = "m",
    namespace: str = "ns",
    uid: str = UID,
    annotations: Mapping[str, str] | None = None,
    **fields: Any,
) -> Model:
    """A DPModel; `fields` are those of its spec, as in JSON."""
    return Model(
        namespace=namespace,
        name=name,
        uid=uid,
        generation=1,
        spec=spec.read({"model": "org/model", **fields}),
        annotations=annotations or {},
        status={},
    )


def part(**fields: Any) -> UserPart:
    """The user's part of a spec with these fields."""
    return user_part(model(**fields), SETTINGS)


def rendered(**fields: Any) -> Json:
    """The pod template of a spec with these fields."""
    return pod_template("m", part(**fields))


def engine(**fields: Any) -> Json:
    """The engine's container of a spec with these fields."""
    return engine_of(rendered(**fields))


def variables(container: Json) -> dict[str, Any]:
    """Its environment: values, or where they come from."""
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}
