"""The flags that are the endpoint's own: one table with each one's value, default and meaning.

Where a flag is also one of vLLM's it keeps vLLM's meaning. The engine's flags are not here.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from dp_vllm import api_keys, names
from dp_vllm.engine.flags import Flag, Takes
from dp_vllm.engine.hang import HANG_SECONDS
from dp_vllm.local.flags import values
from dp_vllm.policy import AHEAD_SECONDS, DEFAULT_POLICY, PREFIX_WEIGHT, Policy
from dp_vllm.topology import given


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the endpoint's own flags say, apart from MODEL."""

    data_parallel_size: int = 1
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    prefill_context_parallel_size: int = 1
    file: tuple[Path, ...] = ()
    """Files of DPModel objects, instead of MODEL; `-` is the standard input."""
    device_ids: tuple[str, ...] = ()
    gpu_groups: given.Groups = ()
    """The GPUs of each replica; empty to have them chosen."""
    engine: str = "vllm"
    """`vllm`, `sim`, or the path of an executable."""
    seed_per_replica: bool = False
    replica_ports: int | None = None
    host: str | None = None
    """None for all interfaces."""
    port: int | None = None
    """None for the default, or in a Slurm job the next one that is free."""
    uds: Path | None = None
    api_key: tuple[str, ...] = ()
    admin_api_key: tuple[str, ...] = ()
    api_key_file: Path | None = None
    ssl_keyfile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_ca_certs: Path | None = None
    gateway_workers: int = 1
    record: Path | None = None
    shutdown_timeout_seconds: float = 5.0
    hang_timeout_seconds: float = HANG_SECONDS
    staged_start: bool = False
    node_timeout_seconds: float = 120.0
    name: str | None = None
    log_dir: Path | None = None
    dry_run: bool = False
    json: bool = False
    gateway_words: tuple[str, ...] = ()
    """What the gateway is told in the words of these flags."""


_FIELDS: Final = {field.name for field in fields(Settings)}


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table."""

    name: str
    value: str
    """What stands for the value in the help: N, PATH; empty for a flag without one."""
    default: str
    """The default as the help says it."""
    meaning: str
    read: Callable[[str], Any] = str
    """Makes the value of one word; its ValueError says what is allowed."""
    gateway: bool = False
    """The gateway has a flag of the same name and is told the value."""
    also: tuple[str, ...] = ()
    takes: Takes = Takes.ONE
    secret: bool = False
    """The value is never shown."""
    choices: tuple[str, ...] = ()
    """What the value may be, where that is a short list; for a shell that completes it."""
    adds: bool = False
    """All values count of a flag that is repeated, and not the last alone."""

    @property
    def flag(self) -> Flag:
        return Flag(self.name, self.takes, self.also, self.choices)

    @property
    def field(self) -> str | None:
        """The field of `Settings` that holds the value, None for what only the gateway is told."""
        name = self.name[2:].replace("-", "_")
        return next((field for field in (name, f"{name}_seconds") if field in _FIELDS), None)


REPLICAS: Final = (
    Setting(
        "--file",
        "FILE.yaml",
        "",
        "instead of MODEL: DPModel objects, each a model with its own replicas and flags (dp-vllm export prints one)",
        values.path,
        also=("-f",),
        adds=True,
    ),
    Setting(
        "--data-parallel-size",
        "N",
        "1",
        "complete copies of the model, each in an engine of its own",
        values.replicas,
        also=("-dp",),
    ),
    Setting(
        "--tensor-parallel-size",
        "N",
        "1",
        "GPUs that share each layer of one copy (the engine is told)",
        values.count,
        also=("-tp",),
    ),
    Setting(
        "--pipeline-parallel-size",
        "N",
        "1",
        "stages that one copy's layers are cut into (the engine is told)",
        values.count,
        also=("-pp",),
    ),
    Setting(
        "--prefill-context-parallel-size",
        "N",
        "1",
        "groups of GPUs that share one long prompt (the engine is told)",
        values.count,
        also=("-pcp",),
    ),
    Setting(
        "--device-ids",
        "2,3",
        "all visible",
        "which GPUs, by index (within CUDA_VISIBLE_DEVICES if that is set) or UUID",
        values.devices,
    ),
    Setting(
        "--gpu-groups",
        "'0,1;2,3'",
        "the best by their links",
        "which GPUs each replica gets (dp-vllm topo shows what joins them)",
        values.gpu_groups,
    ),
    Setting(
        "--engine",
        "vllm|sim|PATH",
        "vllm",
        "vLLM, the simulated engine, or another environment's vllm",
        values.engine,
        choices=("vllm", "sim"),
    ),
    Setting(
        "--seed-per-replica",
        "",
        "",
        "engine N gets --seed plus N; with one seed for all, fresh engines sample the same for the same prompt",
        takes=Takes.NOTHING,
    ),
    Setting(
        "--replica-ports",
        "BASE",
        "unix sockets",
        "engines listen on 127.0.0.1:BASE, BASE+1, ..., where every user of this machine reaches them without a key",
        values.port,
    ),
)

_YES_NO: Final = Takes.SWITCH

ENDPOINT: Final = (
    Setting("--host", "HOST", "all interfaces", "address to listen on; :: is all of IPv6 and IPv4", values.host),
    Setting("--port", "PORT", str(names.DEFAULT_PORT), "port to listen on", values.port),
    Setting("--uds", "PATH", "", "unix socket to listen on instead", values.path),
    Setting(
        "--api-key",
        "KEY...",
        "none",
        f"a client needs one of these keys; also read from ${names.API_KEY_VARIABLE} and $VLLM_API_KEY",
        api_keys.checked,
        takes=Takes.MANY,
        secret=True,
    ),
    Setting(
        "--admin-api-key",
        "KEY...",
        "every key",
        "only these keys may change the deployment (/sleep, LoRA adapters, ...); "
        f"also read from ${names.ADMIN_API_KEY_VARIABLE}",
        api_keys.checked,
        takes=Takes.MANY,
        secret=True,
    ),
    Setting(
        "--api-key-file",
        "PATH",
        "",
        "file of keys, read again when it changes; a line is KEY, `NAME: KEY` or `NAME (admin): KEY`",
        values.path,
    ),
    Setting("--ssl-certfile", "PATH", "", "certificate: serve https", values.path, gateway=True),
    Setting("--ssl-keyfile", "PATH", "", "the certificate's private key", values.path, gateway=True),
    Setting("--ssl-ca-certs", "PATH", "", "authorities that sign clients' certificates", values.path, gateway=True),
    Setting(
        "--ssl-cert-reqs",
        "0|1|2",
        "0",
        "clients' certificates: not asked for, checked if given, required",
        values.one_of("0", "1", "2"),
        choices=("0", "1", "2"),
        gateway=True,
    ),
    Setting("--ssl-ciphers", "LIST", "", "ciphers for TLS 1.2 and older", gateway=True),
    Setting("--root-path", "PATH", "", "path prefix that a proxy in front of us adds", values.root_path, gateway=True),
    Setting(
        "--allowed-origins",
        "JSON",
        "[]",
        "web pages that may use the endpoint (CORS), by their origins; engines have no say in it",
        values.json_list,
        gateway=True,
    ),
    Setting("--allowed-methods", "JSON", '["*"]', "with these methods (CORS)", values.json_list, gateway=True),
    Setting("--allowed-headers", "JSON", '["*"]', "with these headers (CORS)", values.json_list, gateway=True),
    Setting("--allow-credentials", "", "no", "and with cookies (CORS)", gateway=True, takes=_YES_NO),
    Setting("--disable-fastapi-docs", "", "no", "no /docs and no /openapi.json", gateway=True, takes=_YES_NO),
    Setting(
        "--allow-unsafe-routes",
        "",
        "no",
        "pass on routes that change one replica of many, like /collective_rpc",
        gateway=True,
        takes=_YES_NO,
    ),
    Setting(
        "--policy",
        "NAME",
        DEFAULT_POLICY.value,
        f"how a request's replica is picked: {', '.join(policy.value for policy in Policy)}",
        values.one_of(*(policy.value for policy in Policy)),
        choices=tuple(policy.value for policy in Policy),
        gateway=True,
    ),
    Setting(
        "--prefix-weight",
        "N",
        f"{PREFIX_WEIGHT:g}",
        "with --policy prefix: how many seconds of waiting a second of saved prefill is worth",
        values.weight,
        gateway=True,
    ),
    Setting(
        "--max-replica-sequences",
        "N",
        "1024",
        "in flight at one replica; more wait in the gateway, by priority and by fair shares of the keys",
        values.count,
        gateway=True,
    ),
    Setting(
        "--replica-ahead-seconds",
        "SECONDS",
        f"{AHEAD_SECONDS:g}",
        "how much of reading a replica may have ahead; prompts wait in the gateway for it, the short ones first",
        values.some_seconds,
        gateway=True,
    ),
    Setting(
        "--queue-seconds",
        "SECONDS",
        "30",
        "how long a request waits there before it is refused with 429, if no replica may have more",
        values.some_seconds,
        gateway=True,
    ),
    Setting(
        "--first-byte-seconds",
        "SECONDS",
        "0",
        "how long an answer's first byte may take; 0: 600 s for a stream, no limit for an answer that is not streamed",
        values.seconds,
        gateway=True,
    ),
    Setting(
        "--gateway-workers",
        "N",
        "1",
        "processes of the gateway, which share the requests: one carries what one core can",
        values.count,
        gateway=True,
    ),
    Setting(
        "--shutdown-timeout",
        "SECONDS",
        "5",
        "how long answers may go on after Ctrl-C or SIGTERM",
        values.seconds,
        gateway=True,
    ),
)

RUN: Final = (
    Setting(
        "--staged-start",
        "",
        "no",
        "the first time a model starts here, one replica compiles it and the others wait for that",
        takes=_YES_NO,
    ),
    Setting("--name", "NAME", "the port", "what the run is called"),
    Setting(
        "--node-timeout",
        "SECONDS",
        "120",
        "in a Slurm job step over several nodes: how long they wait for each other",
        values.seconds,
    ),
    Setting("--log-dir", "PATH", "~/.local/state/dp-vllm/NAME", "where engines and gateway log", values.path),
    Setting(
        "--log-format",
        "text|json",
        "text",
        "how the gateway writes its log",
        values.one_of("text", "json"),
        choices=("text", "json"),
        gateway=True,
    ),
    Setting(
        "--hang-timeout",
        "SECONDS",
        f"{HANG_SECONDS:g}",
        "an engine that has requests and does nothing for so long is started again; 0 for never",
        values.seconds,
    ),
    Setting(
        "--record",
        "PATH",
        "",
        "write what is asked there for dp-vllm replay: times, lengths, shared beginnings, no text",
        values.path,
        gateway=True,
    ),
    Setting("--access-log", "", "yes", "no line in the gateway's log for each request", gateway=True, takes=_YES_NO),
    Setting(
        "--metrics-port",
        "PORT",
        "none",
        "a second port with /metrics, /health and /ready alone, without a key",
        values.port,
        gateway=True,
    ),
    Setting(
        "--dry-run",
        "",
        "",
        "print each replica's command, environment and GPUs; start nothing",
        takes=Takes.NOTHING,
    ),
    Setting("--json", "", "", "with --dry-run: as JSON", takes=Takes.NOTHING),
)

SETTINGS: Final = {setting.name: setting for setting in (*REPLICAS, *ENDPOINT, *RUN)}
