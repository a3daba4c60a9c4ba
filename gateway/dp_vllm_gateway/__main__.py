"""The gateway's command line: `python -m dp_vllm_gateway`, or `dp-vllm gateway`."""

import asyncio
import dataclasses
import gc
import ipaddress
import json
import os
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from dp_vllm import api_keys, hosts, log_format, names
from dp_vllm.errors import BadSettings, DpVllmError, UserError
from dp_vllm.number import Number
from dp_vllm.policy import DEFAULT_POLICY, PREFIX_WEIGHT, Policy
from dp_vllm_gateway.config import Cors, GatewayConfig, KubernetesModel, Limits, PeerDoor, Tls, divided
from dp_vllm_gateway.discovery import static
from dp_vllm_gateway.keys import replica_key
from dp_vllm_gateway.server import run
from dp_vllm_gateway.workers import parent
from dp_vllm_gateway.workers.place import Place

try:
    import uvloop
except ImportError:  # not on this platform
    uvloop = None  # type: ignore[assignment]


GARBAGE_OBJECTS: Final = 50_000
"""How many more objects may live before cyclic garbage is looked for: requests leave hardly any."""

MOST_SECONDS: Final = 1e8
"""Three years: timers have no room for any number of seconds."""

MOST: Final = 1 << 53
"""The largest count of anything."""

MOST_WORKERS: Final = 256
MOST_FD: Final = 2**31 - 1

_KUBERNETES_NAME: Final = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def _host(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    try:
        return hosts.read(value) if value else None
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not allowed; {error}") from error


def _json_list(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    try:
        listed = json.loads(value)
    except ValueError:
        listed = None
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        raise click.BadParameter(f"{value!r} is not a JSON list of texts, such as '[\"https://example.org\"]'")
    return tuple(listed)


def _key(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """The key as it was given; a message about it never quotes it."""
    try:
        return value if value is None else api_keys.checked(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _key_list(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    for each in value:
        _key(context, parameter, each)
    return value


def _limit_options(command: Callable[..., None]) -> Callable[..., None]:
    """An option for each of `Limits`: `first_byte_seconds` is `--first-byte-seconds`."""
    for limit in reversed(dataclasses.fields(Limits)):
        flag = "--" + limit.name.replace("_", "-")
        seconds = isinstance(limit.default, float)
        kind = Number(0, MOST_SECONDS, min_open=limit.default > 0) if seconds else click.IntRange(1, MOST)
        unit, said = limit.name.rpartition("_")[2].upper(), limit.metadata["said"]
        option = click.option(flag, type=kind, default=limit.default, show_default=True, metavar=unit, help=said)
        command = option(command)
    return command


@click.command(context_settings={"max_content_width": 100})
@click.option("--replica", "replicas", multiple=True, metavar="URL", help="An engine: http://HOST:PORT or unix:/PATH.")
@click.option("--endpoints-file", type=click.Path(path_type=Path), help="The supervisor's file, instead of --replica.")
@click.option("--kubernetes-model", metavar="NAME", help="A DPModel whose pods are the engines, instead of --replica.")
@click.option("--namespace", metavar="NAME", help="The DPModel's.  [default: POD_NAMESPACE, else that of the login]")
@click.option(
    "--peer-port",
    type=click.IntRange(1, 65535),
    help="Tell the DPModel's other gateways on this port of POD_IP what this one does, and be told.",
)
@click.option(
    "--host", callback=_host, help="Address to listen on; :: is all of IPv6 and IPv4.  [default: all of IPv4]"
)
@click.option("--port", type=click.IntRange(1, 65535), default=names.DEFAULT_PORT, show_default=True)
@click.option("--uds", type=click.Path(path_type=Path), help="Listen on a unix socket instead.")
@click.option(
    "--listen-fd",
    "listen_fds",
    type=click.IntRange(0, MOST_FD),
    multiple=True,
    help="Listen on an inherited socket instead.",
)
@click.option(
    "--api-key",
    "api_keys",
    multiple=True,
    metavar="KEY",
    callback=_key_list,
    help=f"A key that clients must send; repeatable.  [default: ${names.API_KEY_VARIABLE}, $VLLM_API_KEY]",
)
@click.option(
    "--admin-api-key",
    "admin_api_keys",
    multiple=True,
    metavar="KEY",
    callback=_key_list,
    help="A key that alone may change the deployment (/sleep, LoRA adapters, ...); without one every key may.  "
    f"[default: ${names.ADMIN_API_KEY_VARIABLE}]",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    help="Keys, read again when it changes: a line is KEY, `NAME: KEY` or `NAME (admin): KEY`.",
)
@click.option(
    "--admin-api-key-file",
    type=click.Path(path_type=Path),
    help="Such a file with administrators' keys alone: other rights than those on --api-key-file may guard it.",
)
@click.option("--replica-api-key", metavar="KEY", callback=_key, help="The key that the engines want.")
@click.option(
    "--replica-api-key-file", type=click.Path(path_type=Path), help="A file with that key: other users see a flag."
)
@click.option(
    "--policy",
    type=click.Choice([p.value for p in Policy]),
    default=DEFAULT_POLICY.value,
    show_default=True,
    help="How a request's replica is chosen.",
)
@click.option(
    "--prefix-weight",
    type=Number(0, 1000),
    default=PREFIX_WEIGHT,
    show_default=True,
    help="Seconds of waiting that a second of saved prefill is worth, with --policy prefix.",
)
@click.option("--record", type=click.Path(path_type=Path), help="Record lengths and times here, for dp-vllm replay.")
@click.option(
    "--gateway-workers",
    type=click.IntRange(1, MOST_WORKERS),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes that serve together, for more requests than one core can carry.",
)
@click.option("--admin-socket", type=click.Path(path_type=Path), help="A unix socket for state and metrics, no key.")
@click.option("--metrics-port", type=click.IntRange(1, 65535), help="/metrics, /health and /ready on a port, no key.")
@click.option("--ssl-keyfile", type=click.Path(path_type=Path))
@click.option("--ssl-certfile", type=click.Path(path_type=Path))
@click.option("--ssl-ca-certs", type=click.Path(path_type=Path))
@click.option("--ssl-cert-reqs", type=click.IntRange(0, 2), default=0, show_default=True)
@click.option("--ssl-ciphers")
@click.option("--root-path", default="", help="A prefix of all paths, as behind a proxy.")
@click.option(
    "--allowed-origins",
    callback=_json_list,
    metavar="JSON",
    help="Origins whose pages may call (CORS), '[\"*\"]' for all. Engines have no say in it.  [default: none, as vLLM]",
)
@click.option("--allowed-methods", callback=_json_list, metavar="JSON")
@click.option("--allowed-headers", callback=_json_list, metavar="JSON")
@click.option("--allow-credentials", is_flag=True)
@click.option("--disable-fastapi-docs", is_flag=True, help="No /docs and /openapi.json.")
@click.option("--allow-unsafe-routes", is_flag=True, help="Pass on routes that change one replica of many.")
@click.option(
    "--max-address-connections",
    type=click.IntRange(1, MOST),
    help="From one client address (an IPv6 /64 is one) in each process; then 429.  [default: 3/4 of all]",
)
@click.option("--shutdown-timeout", type=Number(0, MOST_SECONDS), default=5.0, show_default=True, metavar="SECONDS")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--no-access-log", is_flag=True, help="No line for each request.")
@_limit_options
def main(**given: Any) -> None:
    """Balance OpenAI traffic over engines that are already running."""
    try:
        config = _config(given)
        _raise_open_files()
        log_format.set_up(as_json=config.json_log)
        gc.freeze()  # what was imported stays; without this every collection would walk it
        gc.set_threshold(GARBAGE_OBJECTS)
        if config.workers > 1:
            sys.exit(parent.run(config, _work))
        _run(config)
    except DpVllmError as error:
        click.echo(f"dp-vllm gateway: {error}", err=True)
        sys.exit(error.exit_status)


def _config(given: dict[str, Any]) -> GatewayConfig:
    if sum(bool(given[source]) for source in ("replicas", "endpoints_file", "kubernetes_model")) != 1:
        choice = "--replica http://HOST:PORT (repeatable), --endpoints-file PATH or --kubernetes-model NAME"
        raise BadSettings(f"say in one way which engines: {choice}")
    workers = given["gateway_workers"]
    if workers > 1 and given["record"] is not None:
        raise BadSettings("--record needs --gateway-workers 1: a recording is of all requests, in one process")
    limits = Limits(**{limit.name: given[limit.name] for limit in dataclasses.fields(Limits)})
    root_path = given["root_path"].rstrip("/")
    if root_path and not root_path.startswith("/"):
        raise BadSettings(f"--root-path {root_path!r} is not allowed; it begins with /")
    return GatewayConfig(
        replicas=tuple(static.address_of(url) for url in given["replicas"]),
        endpoints_file=given["endpoints_file"],
        kubernetes=_kubernetes(given["kubernetes_model"], given["namespace"], _peer_door(given)),
        host=given["host"],
        port=given["port"],
        uds=given["uds"],
        listen_fds=given["listen_fds"],
        api_keys=given["api_keys"] or (() if given["api_key_file"] else api_keys.of_environment(os.environ)),
        admin_api_keys=given["admin_api_keys"] or api_keys.of_variable(os.environ, names.ADMIN_API_KEY_VARIABLE),
        api_key_file=given["api_key_file"],
        admin_api_key_file=given["admin_api_key_file"],
        replica_api_key=replica_key(given["replica_api_key"], given["replica_api_key_file"]),
        policy=Policy(given["policy"]),
        prefix_weight=given["prefix_weight"],
        record=given["record"],
        admin_socket=given["admin_socket"],
        metrics_port=given["metrics_port"],
        tls=_tls(given),
        root_path=root_path,
        cors=_cors(given),
        docs=not given["disable_fastapi_docs"],
        allow_unsafe_routes=given["allow_unsafe_routes"],
        max_address_connections=given["max_address_connections"],
        shutdown_timeout_seconds=given["shutdown_timeout"],
        json_log=given["log_format"] == "json",
        access_log=not given["no_access_log"],
        workers=workers,
        limits=divided(limits, workers),
    )


def _peer_door(given: dict[str, Any]) -> PeerDoor | None:
    port = given["peer_port"]
    if port is None:
        return None
    if given["kubernetes_model"] is None:
        raise BadSettings("--peer-port needs --kubernetes-model: the API server says who the other gateways are")
    if given["gateway_workers"] > 1:
        raise BadSettings("--peer-port needs --gateway-workers 1: for more requests run more gateways of the model")
    address = os.environ.get("POD_IP", "")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        message = f"--peer-port needs this pod's address in the environment: POD_IP={address!r} is none"
        raise BadSettings(message) from None
    return PeerDoor(address=address, port=port)


def _kubernetes(model: str | None, namespace: str | None, peers: PeerDoor | None) -> KubernetesModel | None:
    if model is None:
        if namespace is not None:
            raise BadSettings("--namespace needs --kubernetes-model too")
        return None
    namespace = namespace or os.environ.get("POD_NAMESPACE") or None
    for flag, name in (("--kubernetes-model", model), ("--namespace", namespace)):
        if name is not None and not _KUBERNETES_NAME.fullmatch(name):
            raise BadSettings(f"{flag} {name!r} is not allowed; such names are of a-z, 0-9 and -, at most 63 of them")
    try:
        import dp_vllm_gateway.discovery.kubernetes  # noqa: F401 - early, so that no collection of garbage walks it
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "kubernetes":
            raise
        raise UserError("--kubernetes-model needs the Kubernetes client: pip install 'dp-vllm[kubernetes]'") from error
    return KubernetesModel(name=model, namespace=namespace, peers=peers)


def _tls(given: dict[str, Any]) -> Tls | None:
    if given["ssl_certfile"] is None:
        if given["ssl_keyfile"] is not None:
            raise BadSettings("--ssl-keyfile needs --ssl-certfile too")
        return None
    return Tls(
        certfile=given["ssl_certfile"],
        keyfile=given["ssl_keyfile"],
        ca_certs=given["ssl_ca_certs"],
        cert_reqs=given["ssl_cert_reqs"],
        ciphers=given["ssl_ciphers"],
    )


def _cors(given: dict[str, Any]) -> Cors:
    return Cors(
        origins=given["allowed_origins"] or (),
        methods=_or_all(given["allowed_methods"]),
        headers=_or_all(given["allowed_headers"]),
        credentials=given["allow_credentials"],
    )


def _or_all(given: tuple[str, ...] | None) -> tuple[str, ...]:
    return ("*",) if given is None else given


def _raise_open_files() -> None:
    """Two descriptors a stream: take as many as the system gives."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _work(config: GatewayConfig, place: Place) -> int:
    """Be one worker of several; the exit status."""
    try:
        _run(config, place)
    except DpVllmError as error:
        click.echo(f"dp-vllm gateway: {error}", err=True)
        return error.exit_status
    return 0


def _run(config: GatewayConfig, place: Place | None = None) -> None:
    serving = run(config, place)
    if uvloop is None:
        asyncio.run(serving)
    else:
        uvloop.run(serving)


if __name__ == "__main__":
    main(prog_name="dp-vllm gateway")
