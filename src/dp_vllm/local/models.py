"""The models of a run, each with what its replicas are started with: from the command line, or from DPModel objects.

Pure: files were read before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from msgspec import UNSET

from dp_vllm.engine.command import Sizes, flags_in, patience
from dp_vllm.errors import BadSettings
from dp_vllm.local.flags import engines
from dp_vllm.local.flags.config_file import ConfigFile
from dp_vllm.local.flags.settings import Settings
from dp_vllm.local.flags.split import Asked
from dp_vllm.spec import NO_ACCELERATOR
from dp_vllm.spec.documents import Document
from dp_vllm.spec.references import expanded

_VLLMS_SEED: Final = "0"
"""Every engine's that is told none."""
LEFT_OUT: Final = "for a cluster alone, and left out here"

_CLUSTERS: Final = ("cache", "hfTokenSecretRef", "rollout", "gateway", "template")
_CLUSTERS_OF_ENGINE: Final = ("image", "resources", "runAsUser", "hangTimeoutSeconds", "shmSize")
"""Fields that mean something in a cluster alone."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model of a run."""

    model: str
    words: tuple[str, ...]
    """The engine's flags."""
    flags: frozenset[str]
    """The long names of those flags, and of the ones in `config`."""
    copies: int = 1
    sizes: Sizes = field(default_factory=Sizes)
    config: Path | None = None
    name: str = ""
    """What its replicas are called after; empty for a run's only model."""
    served: tuple[str, ...] = ()
    """What clients call it; empty if its engine is to be asked."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """The engine's own variables."""
    uses_gpus: bool = True
    first_seed: int | None = None
    """What the replicas' seeds are counted from; None for the same seed for all."""


def sizes(settings: Settings) -> Sizes:
    """How one replica is spread over GPUs."""
    return Sizes(
        tensor=settings.tensor_parallel_size,
        pipeline=settings.pipeline_parallel_size,
        prefill_context=settings.prefill_context_parallel_size,
    )


def typed(asked: Asked, config: Path | None) -> Model:
    """The model of a command line; `config` is the file that its engines are to read."""
    return Model(
        model=asked.model,
        words=asked.engine_words,
        flags=asked.engine_flags,
        copies=asked.settings.data_parallel_size,
        sizes=sizes(asked.settings),
        config=config,
    )


def seeded(model: Model, config: ConfigFile | None) -> Model:
    """The model with a seed of its own for each replica. Raises BadSettings if its flags name one that is no number."""
    (given,) = engines.values(model.words, config).get("--seed") or (_VLLMS_SEED,)
    if not given.isascii() or not given.isdigit():
        raise BadSettings(f"--seed: {given!r} cannot be counted up from; with --seed-per-replica give a whole number")
    return replace(model, first_seed=int(given))


def written(
    documents: Sequence[Document], environ: Mapping[str, str], *, keys: bool, admin_keys: bool = False
) -> tuple[Model, ...]:
    """The models of DPModel objects; `keys` and `admin_keys` say whether the endpoint has such keys.

    Raises BadSettings for objects that cannot be served together, and for what only a cluster can give.
    """
    _demand_apart(documents)
    for one in documents:
        if one.spec.api_key_secret_ref is not UNSET and not keys:
            raise BadSettings(
                f"{one.where}: {one.name}: spec.apiKeySecretRef: clients are to need a key, and Secrets are in a "
                "cluster; give --api-key KEY or --api-key-file PATH"
            )
        if one.spec.admin_api_key_secret_ref is not UNSET and not admin_keys:
            raise BadSettings(
                f"{one.where}: {one.name}: spec.adminApiKeySecretRef: changes are to need an administrator's key, and "
                "Secrets are in a cluster; give --admin-api-key KEY or --api-key-file PATH"
            )
    return tuple(_model(one, environ, alone=len(documents) == 1) for one in documents)


def left_out(document: Document) -> str:
    """Which of its fields mean nothing here, in a sentence; empty if none."""
    engine = document.given.get("engine", {})
    fields = [f"spec.{field}" for field in _CLUSTERS if field in document.given]
    fields += [f"spec.engine.{field}" for field in _CLUSTERS_OF_ENGINE if field in engine]
    return f"{document.where}: {document.name}: {LEFT_OUT}: {', '.join(fields)}" if fields else ""


def _demand_apart(documents: Sequence[Document]) -> None:
    names: dict[str, Document] = {}
    served: dict[str, Document] = {}
    for one in documents:
        if one.name in names:
            raise BadSettings(
                f"{one.where}: {one.name}: {names[one.name].where} has this metadata.name too; name one differently"
            )
        if (name := one.spec.served_name) in served:
            raise BadSettings(
                f"{one.where}: {one.name}: clients would call it {name}, as {served[name].name} in "
                f"{served[name].where}; give one of them another spec.servedModelName"
            )
        names[one.name] = served[name] = one


def _model(document: Document, environ: Mapping[str, str], *, alone: bool) -> Model:
    spec = document.spec
    if not spec.replicas:
        raise BadSettings(f"{document.where}: {document.name}: spec.replicas: 0 would serve nothing; leave it out")
    variables = _variables(document, environ)
    words = tuple(expanded(word, variables) for word in spec.engine.args)
    named = () if spec.served_model_name is UNSET else ("--served-model-name", spec.served_model_name)
    return Model(
        model=spec.model,
        words=(*words, *named),
        flags=flags_in(words),
        copies=spec.replicas,
        sizes=Sizes(tensor=spec.tensor_parallel_size, pipeline=spec.pipeline_parallel_size),
        name="" if alone else document.name,
        served=() if alone else (spec.served_name,),
        variables=patience(spec.engine.startup_timeout_seconds) | variables,
        uses_gpus=spec.engine.accelerator != NO_ACCELERATOR,
    )


def _variables(document: Document, environ: Mapping[str, str]) -> dict[str, str]:
    made: dict[str, str] = {}
    for number, variable in enumerate(document.spec.engine.env):
        name = variable["name"]
        if "valueFrom" not in variable:
            made[name] = expanded(variable.get("value", ""), made)
        elif name not in environ:
            raise BadSettings(
                f"{document.where}: {document.name}: spec.engine.env[{number}]: the value of {name} is in a cluster; "
                f"set {name} in the environment of this command"
            )
        else:
            made[name] = environ[name]
    return made
