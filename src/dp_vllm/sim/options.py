"""The command line, parsed once: any flag of `vllm serve` is taken, those that matter here are read."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dp_vllm.engine.flags import Flag, Flags, Takes, vllm_flags
from dp_vllm.errors import BadSettings
from dp_vllm.sim import config_file, faults, settings
from dp_vllm.sim.cors import Cors
from dp_vllm.sim.engine import Limits, Pace
from dp_vllm.sim.faults import Fault
from dp_vllm.spec.owned_flags import TWO_IN_ONE

OWN_FLAGS = (
    *(Flag(setting.flag, Takes.ONE) for setting in settings.SETTINGS),
    Flag(settings.HOST_FLAG, Takes.ONE),
    Flag(settings.FAULT_FLAG, Takes.MANY),
)
"""The simulator's, beside vLLM's."""
_MULTIPLES = {"k": 1000, "m": 1000**2, "g": 1000**3, "K": 1024, "M": 1024**2, "G": 1024**3}


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the server listens; a unix socket beats host and port."""

    host: str | None
    port: int
    uds: str | None


@dataclass(frozen=True, slots=True)
class Api:
    """What the HTTP side does."""

    keys: tuple[str, ...]
    root_path: str
    request_id_headers: bool
    load_tracking: bool
    force_include_usage: bool
    prompt_tokens_details: bool
    sse_keep_alive_seconds: float
    idle_seconds: float
    docs: bool
    access_log: bool
    unlogged_paths: frozenset[str]
    cors: Cors


@dataclass(frozen=True, slots=True)
class Features:
    """Which routes there are."""

    pooling: bool
    classify: bool
    response_store: bool
    lora: bool
    max_loras: int
    lora_updates: bool
    dev_mode: bool
    tokenizer_info: bool
    scale_out: bool
    tokens_only: bool
    log_stats: bool
    reasoning: bool


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that one simulated engine was told at its start."""

    model: str
    names: tuple[str, ...]
    listen: Listen
    api: Api
    features: Features
    limits: Limits
    pace: Pace
    seed: int
    max_logprobs: int
    adapters: tuple[tuple[str, str], ...]
    shutdown_timeout_seconds: float
    load_seconds: float
    host: Path | None
    """What engines of one host share is noted there."""
    host_cores: int
    reply_tokens: int
    embedding_size: int
    faults: tuple[Fault, ...]


def parse(argv: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Read `MODEL [flags]`. Raises BadSettings, which names the flag."""
    flags = _Flags(argv)
    own = settings.read(flags.text, environment)
    return Options(
        model=flags.model,
        names=flags.texts("--served-model-name") or (flags.model,),
        listen=Listen(flags.text("--host"), flags.whole("--port", 8000), flags.text("--uds")),
        api=_api(flags, environment),
        features=_features(flags, environment),
        limits=_limits(flags, own),
        pace=Pace(own["prefill-tokens-per-second"], own["decode-step-seconds"], own["decode-growth-seconds"]),
        seed=flags.whole("--seed", 0),
        max_logprobs=flags.whole("--max-logprobs", 20),
        adapters=tuple(_adapter(text) for text in flags.texts("--lora-modules")),
        shutdown_timeout_seconds=flags.number("--shutdown-timeout", 0.0),
        load_seconds=own["load-seconds"],
        host=_host(flags.text(settings.HOST_FLAG)),
        host_cores=int(own["host-cores"]),
        reply_tokens=int(own["reply-tokens"]),
        embedding_size=int(own["embedding-size"]),
        faults=_faults(flags, environment),
    )


def _words(text: str | None) -> tuple[str, ...]:
    return (text,) if text else ()


def _host(text: str | None) -> Path | None:
    path = Path(text) if text else None
    if path is not None and not path.is_dir():
        raise BadSettings(f"{settings.HOST_FLAG}: {text!r} is not a directory; make one for the engines of one host")
    return path


def _faults(flags: "_Flags", environment: Mapping[str, str]) -> tuple[Fault, ...]:
    given = flags.texts(settings.FAULT_FLAG) or _words(environment.get(settings.FAULT_VARIABLE))
    return tuple(fault for text in given for fault in faults.parse(text))


def _api(flags: "_Flags", environment: Mapping[str, str]) -> Api:
    return Api(
        keys=flags.texts("--api-key") or _words(environment.get("VLLM_API_KEY")),
        root_path=(flags.text("--root-path") or "").rstrip("/"),
        request_id_headers=flags.is_on("--enable-request-id-headers"),
        load_tracking=flags.is_on("--enable-server-load-tracking"),
        force_include_usage=flags.is_on("--enable-force-include-usage"),
        prompt_tokens_details=flags.is_on("--enable-prompt-tokens-details"),
        sse_keep_alive_seconds=flags.number("--sse-keep-alive-interval", 0.0),
        idle_seconds=_seconds(environment, "VLLM_HTTP_TIMEOUT_KEEP_ALIVE", 5.0),
        docs=not flags.is_on("--disable-fastapi-docs"),
        access_log=not flags.is_on("--disable-uvicorn-access-log"),
        unlogged_paths=frozenset((flags.text("--disable-access-log-for-endpoints") or "").split(",")),
        cors=_cors(flags),
    )


def _cors(flags: "_Flags") -> Cors:
    def texts(name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        given = flags.text(name)
        if given is None:
            return default
        try:
            return msgspec.json.decode(given, type=tuple[str, ...])
        except msgspec.DecodeError as error:
            raise BadSettings(f"{name}: {given!r} is not a JSON list of texts, such as '[\"*\"]'") from error

    return Cors(
        texts("--allowed-origins", ()),
        texts("--allowed-methods", ("*",)),
        texts("--allowed-headers", ("*",)),
        credentials=flags.is_on("--allow-credentials"),
    )


def _features(flags: "_Flags", environment: Mapping[str, str]) -> Features:
    def set_to_one(name: str) -> bool:
        return environment.get(name, "0").strip().lower() in ("1", "true")

    pooling = flags.text("--runner") == "pooling"
    return Features(
        pooling=pooling,
        classify=pooling and flags.text("--convert") == "classify",
        response_store=set_to_one("VLLM_ENABLE_RESPONSES_API_STORE"),
        lora=flags.is_on("--enable-lora"),
        max_loras=flags.whole("--max-loras", 1),
        lora_updates=set_to_one("VLLM_ALLOW_RUNTIME_LORA_UPDATING"),
        dev_mode=set_to_one("VLLM_SERVER_DEV_MODE"),
        tokenizer_info=flags.is_on("--enable-tokenizer-info-endpoint"),
        scale_out=flags.is_on("--enable-scale-out") or flags.is_on("--tokens-only"),
        tokens_only=flags.is_on("--tokens-only"),
        log_stats=not flags.is_on("--disable-log-stats"),
        reasoning=bool(flags.text("--reasoning-parser") or flags.text("--reasoning-config")),
    )


def _limits(flags: "_Flags", own: Mapping[str, float]) -> Limits:
    limits = Limits(
        max_num_seqs=flags.whole("--max-num-seqs", 256),
        max_num_batched_tokens=flags.whole("--max-num-batched-tokens", 8192),
        max_model_len=flags.whole("--max-model-len", 32_768, automatic=True),
        block_size=flags.whole("--block-size", 16),
        blocks=flags.whole("--num-gpu-blocks-override", int(own["kv-blocks"])),
        prefix_caching=flags.is_on("--enable-prefix-caching", default=True),
        max_num_queued_reqs=flags.whole("--max-num-queued-reqs", -1),
    )
    if limits.blocks * limits.block_size < limits.max_model_len:
        raise BadSettings(
            f"--max-model-len: {limits.max_model_len} tokens do not fit into the KV cache of {limits.blocks} blocks of"
            f" {limits.block_size} tokens; raise --sim-kv-blocks or lower --max-model-len"
        )
    return limits


def _adapter(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not name or not equals or not path:
        raise BadSettings(f"--lora-modules: {text!r} is not NAME=PATH")
    return name, path


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(environment.get(name, default))
    except ValueError as error:
        raise BadSettings(f"{name}: {environment[name]!r} is not a number of seconds") from error


class _Flags:
    """The words of a command line, by flag. The last mention of a flag counts."""

    def __init__(self, argv: Sequence[str]) -> None:
        known = Flags(vllm_flags(), further=OWN_FLAGS)
        self._values: dict[str, tuple[str, ...]] = {}
        self._switches: dict[str, bool] = {}
        words = self._read(known, argv)
        if (config := self.text("--config")) is not None:
            words = self._read(known, [*config_file.words(Path(config)), *argv])
        if len(words) > 1:
            raise BadSettings(f"unrecognized arguments: {' '.join(words[1:])}; there is one model")
        self.model = words[0] if words else self.text("--model") or "Qwen/Qwen3-0.6B"

    def _read(self, known: Flags, argv: Sequence[str]) -> list[str]:
        """Note every flag; the words that belong to none."""
        words = []
        for item in known.read(argv):
            if not item.spelling:
                if re.match(TWO_IN_ONE, item.words[0]):
                    raise BadSettings(f"unrecognized arguments: {item.words[0]!r} is one word; check the quotes")
                words.append(item.words[0])
            elif item.candidates:
                raise BadSettings(f"{item.spelling}: could be any of {', '.join(item.candidates)}")
            elif item.spelling.startswith("--sim-") and item.flag is None:
                raise BadSettings(f"{item.spelling}: no such setting; --help lists them")
            elif item.flag is not None and "." not in item.spelling:
                self._values[item.flag.name] = item.values
                self._switches[item.flag.name] = not item.off
        return words

    def texts(self, name: str) -> tuple[str, ...]:
        return self._values.get(name, ())

    def text(self, name: str) -> str | None:
        values = self._values.get(name)
        if values is None:
            return None
        if len(values) != 1:
            raise BadSettings(f"{name}: expected one value, got {list(values) or 'none'}")
        return values[0]

    def is_on(self, name: str, *, default: bool = False) -> bool:
        return self._switches.get(name, default)

    def number(self, name: str, default: float) -> float:
        text = self.text(name)
        try:
            return default if text is None else float(text)
        except ValueError as error:
            raise BadSettings(f"{name}: {text!r} is not a number") from error

    def whole(self, name: str, default: int, *, automatic: bool = False) -> int:
        """A whole number, with vLLM's suffixes: `8k` is 8000, `8K` is 8192."""
        text = self.text(name)
        if text is None or (automatic and text in ("auto", "-1")):
            return default
        match = re.fullmatch(r"(-?\d+)([kKmMgG]?)", text)
        if match is None:
            raise BadSettings(f"{name}: {text!r} is not a whole number")
        return int(match[1]) * _MULTIPLES.get(match[2], 1)
