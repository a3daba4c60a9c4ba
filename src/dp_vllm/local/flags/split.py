"""Divides the words of `dp-vllm serve` between the endpoint and the engine.

The endpoint's flags are caught in every spelling that vLLM takes, typed or in the `--config` file; everything else
goes to the engine exactly as it was typed. Pure: files were read before.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from dp_vllm import api_keys, names
from dp_vllm.engine.flags import Flag, Flags, Takes, Typed, vllm_flags
from dp_vllm.errors import BadSettings
from dp_vllm.local.flags import beside_file, config_file, refusals, typos
from dp_vllm.local.flags.config_file import ConfigFile
from dp_vllm.local.flags.settings import SETTINGS, Settings

EXAMPLE: Final = "dp-vllm serve Qwen/Qwen3-8B -dp 4"

_MODEL: Final = "--model"
_CONFIG: Final = "--config"
_GREEDY: Final = (Takes.MANY, Takes.OPTIONAL)
_HELP: Final = Flag("--help", Takes.NOTHING, ("-h",))
_OURS: Final = frozenset({_MODEL, _CONFIG, _HELP.name, *SETTINGS, *refusals.NAMES})
_VLLM: Final = {flag.name: flag for flag in vllm_flags()}

FLAGS: Final = Flags(
    _VLLM.values(), further=(*(setting.flag for setting in SETTINGS.values() if setting.name not in _VLLM), _HELP)
)
"""What a command line of `dp-vllm serve` is read with: vLLM's flags, and ours where vLLM has none of that name."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody asked for."""

    model: str
    """Empty if the models are in files."""
    settings: Settings
    engine_words: tuple[str, ...]
    """The engine's flags, each exactly as typed and in that order."""
    engine_flags: frozenset[str]
    """Long names of the flags that the engine gets, also of those in its `--config` file."""
    config: ConfigFile | None = None
    config_text: str | None = None
    """What the engines' copy of the file holds; None if they can read the file itself."""
    notes: tuple[str, ...] = ()
    """What may not be as it was meant."""


@dataclass(frozen=True, slots=True)
class _Given:
    """A flag and where it stands."""

    item: Typed
    source: str
    """For messages: `--port`, `port in serve.yaml`."""


def wants_help(items: Iterable[Typed]) -> bool:
    return any(item.flag is _HELP for item in items)


def config_path(items: Iterable[Typed]) -> str | None:
    """The `--config` file that the command line names, also as `--config=FILE`, which vLLM overlooks."""
    paths = [_only_value(_Given(item, item.spelling)) for item in items if item.flag and item.flag.name == _CONFIG]
    if len(paths) > 1:
        raise BadSettings(f"{_CONFIG}: only one file can be given, not both {paths[0]!r} and {paths[1]!r}")
    return paths[0] if paths else None


def divide(
    items: Iterable[Typed], file: ConfigFile | None, environ: Mapping[str, str], *, needs_model: bool = True
) -> Asked:
    """Divide a command line that `FLAGS` read, and its `--config` file, between the endpoint and the engine.

    Flags win over the file, the file over the environment; of a flag that is repeated the last counts. Raises
    BadSettings with the flag, the value and what is allowed; the model may be missing, and is then empty, unless it
    `needs_model`.
    """
    typed = tuple(items)
    from_file = _from_file(file) if file else []
    given = from_file + [_Given(item, item.spelling) for item in typed if item.spelling]
    for one in given:
        typos.demand_no_other_name(one.item, one.source)
    for item in typed:
        typos.demand_apart(item)
        typos.demand_clear(item, item.spelling, FLAGS, _OURS)
    engine = [one.item for one in given if not _is_ours(one.item)]
    settings = _settings(given, environ)
    if settings.data_parallel_size > 1 and _is_on(refusals.EXPERT_PARALLEL, engine):
        raise BadSettings(refusals.expert_refusal(settings.data_parallel_size))
    if settings.file:
        beside_file.demand_none(
            [*((one.source, one.item) for one in from_file), *((item.spelling, item) for item in typed)], _OURS
        )
    return Asked(
        model="" if settings.file else _model(typed, from_file, needed=needs_model),
        settings=settings,
        engine_words=tuple(word for item in engine for word in item.words),
        engine_flags=frozenset(item.flag.name for item in engine if item.flag),
        config=file,
        config_text=config_file.without(file, _OURS) if file else None,
        notes=tuple(note for item in typed if (note := typos.doubt(item, FLAGS))),
    )


def _from_file(file: ConfigFile) -> list[_Given]:
    for entry in file.entries:
        setting = SETTINGS.get(entry.item.flag.name) if entry.item.flag else None
        if entry.says_nothing and setting is not None and setting.secret:
            raise BadSettings(f"{entry.key} in {file.path}: {api_keys.RULE}; leave the line out for none")
    return [_Given(entry.item, f"{entry.key} in {file.path}") for entry in file.entries if not entry.says_nothing]


def _is_ours(item: Typed) -> bool:
    return item.spelling == "--" or (item.flag is not None and item.flag.name in _OURS)


def _is_on(name: str, items: Iterable[Typed]) -> bool:
    states = [not item.off for item in items if item.flag and item.flag.name == name]
    return bool(states) and states[-1]


def _settings(given: Iterable[_Given], environ: Mapping[str, str]) -> Settings:
    fields: dict[str, Any] = {}
    gateway: dict[str, tuple[str, ...]] = {}
    for one in given:
        name = one.item.flag.name if one.item.flag else ""
        if name in refusals.NAMES and (reason := refusals.refusal(one.item)):
            raise BadSettings(f"{' '.join((one.source, *one.item.values))}: {reason}")
        if name not in SETTINGS:
            continue
        setting, value = SETTINGS[name], _value(one)
        if setting.field:
            fields[setting.field] = (*fields.get(setting.field, ()), value) if setting.adds else value
        if setting.gateway:
            gateway[name] = _gateway_words(one.item)
    settings = Settings(**fields, gateway_words=tuple(word for words in gateway.values() for word in words))
    _demand_whole(settings)
    return _with_keys(settings, environ)


def _value(one: _Given) -> Any:
    assert one.item.flag is not None
    setting = SETTINGS[one.item.flag.name]
    if setting.takes in (Takes.NOTHING, Takes.SWITCH):
        if one.item.values:
            raise BadSettings(f"{one.source}: {one.item.values[0]!r} is too much, it takes no value")
        return not one.item.off
    if setting.takes is Takes.MANY:
        _demand_value(one)
        return tuple(_read(one, value) for value in one.item.values)
    return _read(one, _only_value(one))


def _demand_value(one: _Given) -> None:
    if not one.item.values:
        raise BadSettings(f"{one.source} needs a value; one that begins with '-' is written {one.item.spelling}=VALUE")


def _only_value(one: _Given) -> str:
    _demand_value(one)
    if len(one.item.values) > 1:
        raise BadSettings(f"{one.source}: one value is needed, not {len(one.item.values)}")
    return one.item.values[0]


def _read(one: _Given, value: str) -> Any:
    assert one.item.flag is not None
    setting = SETTINGS[one.item.flag.name]
    try:
        return setting.read(value)
    except ValueError as error:
        shown = "" if setting.secret else f" {value!r} is not allowed;"
        raise BadSettings(f"{one.source}:{shown} {error}") from error


def _gateway_words(item: Typed) -> tuple[str, ...]:
    assert item.flag is not None
    setting = SETTINGS[item.flag.name]
    if setting.takes is Takes.SWITCH:
        usually_off = setting.default == "no"
        if item.off == usually_off:
            return ()
        return (setting.name if usually_off else f"--no-{setting.name[2:]}",)
    (value,) = item.values
    return (f"{setting.name}={value}",) if value.startswith("-") else (setting.name, value)


def _demand_whole(settings: Settings) -> None:
    if settings.ssl_keyfile and not settings.ssl_certfile:
        raise BadSettings("--ssl-keyfile: a key without its certificate; add --ssl-certfile PATH")
    if settings.api_key and settings.api_key_file:
        raise BadSettings("--api-key and --api-key-file: give one of them; the file can hold all keys")
    if settings.record and settings.gateway_workers > 1:
        raise BadSettings("--record: only one process can record all requests; leave out --gateway-workers meanwhile")


def _with_keys(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """The settings with the keys of the environment, if no others were given."""
    keys = settings.api_key or (() if settings.api_key_file else api_keys.of_environment(environ))
    admin_keys = settings.admin_api_key or api_keys.of_variable(environ, names.ADMIN_API_KEY_VARIABLE)
    return replace(settings, api_key=keys, admin_api_key=admin_keys)


def _model(typed: Iterable[Typed], from_file: Iterable[_Given], *, needed: bool) -> str:
    items = tuple(typed)
    plain = [item.words[0] for item in items if not item.spelling]
    flagged = [_only_value(_Given(item, _MODEL)) for item in items if item.flag and item.flag.name == _MODEL]
    models = plain + flagged
    if len(models) > 1:
        raise BadSettings(
            f"one MODEL is served, not both {models[0]!r} and {models[1]!r}; "
            "if one of them is a flag's value, write --flag=VALUE"
        )
    in_file = [_only_value(one) for one in from_file if one.item.flag and one.item.flag.name == _MODEL]
    if models or in_file:
        return _named((models or in_file)[-1])
    if not needed:
        return ""
    greedy = [item.spelling for item in items if item.values and (not item.flag or item.flag.takes in _GREEDY)]
    taken = f" ({greedy[-1]} took the words behind it, so put MODEL first)" if greedy else ""
    raise BadSettings(f"MODEL is missing{taken}, for example: {EXAMPLE}")


def _named(model: str) -> str:
    if not model:
        raise BadSettings(f"MODEL is empty (a variable that is not set?), for example: {EXAMPLE}")
    return model
