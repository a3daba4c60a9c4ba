"""The gateways that are measured, ours among them: how each is told to do the same job as well as it can.

All of them listen on one port of the loopback address, keep connections on both sides, write no line per request, and
pass on each piece of a stream at once. `PEERS` send to the same engines in turn or to the least loaded; `ROUTING` are
those that are compared by where they send.
"""

import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench import install
from bench.load import API_KEY
from dp_vllm import __version__


@dataclass(frozen=True, slots=True)
class Engines:
    """Where the engines listen: each on a port and on a unix socket."""

    ports: tuple[int, ...]
    sockets: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """What one gateway is given to start with."""

    engines: Engines
    port: int
    spare_port: int
    """For metrics, where a gateway insists on a port of its own for them."""
    folder: Path
    """Its own, empty."""


@dataclass(frozen=True, slots=True)
class Command:
    """How a gateway is started."""

    argv: list[str]
    env: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    admin_socket: Path | None = None
    """Where it tells what is in flight; only ours does."""


Peer = Callable[[Place], Command]
"""Writes a gateway's configuration and says how to start it; raises install.Missing."""


def nginx(place: Place, unix: bool = False, balance: str = "") -> Command:
    """nginx with one worker. Bodies up to 1 MiB stay in memory; by default 16 kB go through a temporary file."""
    tool = install.debian("nginx")
    targets = [f"unix:{path}" for path in place.engines.sockets] if unix else _hosts(place.engines)
    servers = "".join(f"server {target} max_fails=0; " for target in targets)
    temporary = "".join(
        f"{kind}_temp_path {place.folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = f"""
        {"user root;" if os.geteuid() == 0 else ""}
        daemon off; worker_processes 1; worker_rlimit_nofile 20000;
        error_log {place.folder}/error.log error; pid {place.folder}/pid;
        events {{ worker_connections 20000; multi_accept on; }}
        http {{
            access_log off; {temporary}
            client_body_buffer_size 1m; client_max_body_size 256m; keepalive_requests 1000000000;
            upstream engines {{ {balance} {servers} keepalive 1024; keepalive_requests 1000000000; }}
            server {{
                listen 127.0.0.1:{place.port} backlog=4096;
                location / {{
                    proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection "";
                    proxy_buffering off; proxy_read_timeout 600s;
                }}
            }}
        }}
    """
    path = place.folder / "nginx.conf"
    path.write_text(config)
    return Command([str(tool.path), "-e", "stderr", "-c", str(path)], tool.env, tool.version)


def haproxy(place: Place, unix: bool = False) -> Command:
    """haproxy with one thread."""
    tool = install.debian("haproxy")
    targets = [f"unix@{path}" for path in place.engines.sockets] if unix else _hosts(place.engines)
    servers = "\n".join(f"    server engine{number} {target}" for number, target in enumerate(targets))
    config = f"""
global
    nbthread 1
    maxconn 9900
defaults
    mode http
    option http-no-delay
    http-reuse always
    timeout connect 3s
    timeout client 600s
    timeout server 600s
frontend endpoint
    bind 127.0.0.1:{place.port} backlog 4096
    default_backend engines
backend engines
    balance roundrobin
{servers}
"""
    path = place.folder / "haproxy.cfg"
    path.write_text(config)
    return Command([str(tool.path), "-db", "-f", str(path)], tool.env, tool.version)


def vllm_router(place: Place, policy: str = "round_robin") -> Command:
    """vLLM's router, in Rust."""
    tool = install.python("vllm-router")
    return Command([*_router(tool, place, policy), "--log-level", "warning"], version=tool.version)


def sglang_router(place: Place, policy: str = "round_robin") -> Command:
    """SGLang's router, in Rust."""
    tool = install.python("sglang-router")
    argv = [str(tool.path), "launch", *_router(tool, place, policy)[1:], "--log-level", "warn"]
    return Command(argv, version=tool.version)


def dp_vllm(place: Place, unix: bool = False, log: bool = False, policy: str = "") -> Command:
    """Ours, with a key, metrics and leases, as `dp-vllm serve` starts it; without the line per request unless asked.

    As the others know no bound of what an engine may have in flight, ours is as good as none.
    """
    targets = [f"unix:{path}" for path in place.engines.sockets] if unix else _urls(place.engines)
    replicas = [word for target in targets for word in ("--replica", target)]
    admin = place.folder / "admin"
    argv = [sys.executable, "-I", "-m", "dp_vllm_gateway", *replicas, "--host", "127.0.0.1", "--port", str(place.port)]
    argv += ["--api-key", API_KEY, "--admin-socket", str(admin), *([] if log else ["--no-access-log"])]
    argv += ["--max-replica-sequences", "10000"]
    argv += ["--policy", policy] if policy else []
    return Command(argv, version=f"{__version__} on CPython {platform.python_version()}", admin_socket=admin)


def other(words: str) -> Peer:
    """Any program: `{port}`, `{urls}`, `{replicas}` (as our flags) and `{folder}` in its words are filled in."""

    def command(place: Place) -> Command:
        urls = _urls(place.engines)
        filled = words.format(
            port=place.port,
            urls=" ".join(urls),
            replicas=" ".join(f"--replica {url}" for url in urls),
            folder=place.folder,
        )
        admin = place.folder / "admin"
        return Command(filled.split(), admin_socket=admin if str(admin) in filled else None)

    return command


def _router(tool: install.Tool, place: Place, policy: str) -> list[str]:
    where = ["--host", "127.0.0.1", "--port", str(place.port), "--prometheus-port", str(place.spare_port)]
    return [str(tool.path), "--worker-urls", *_urls(place.engines), *where, "--policy", policy]


def _hosts(engines: Engines) -> list[str]:
    return [f"127.0.0.1:{port}" for port in engines.ports]


def _urls(engines: Engines) -> list[str]:
    return [f"http://{host}" for host in _hosts(engines)]


PEERS: Final[dict[str, Peer]] = {
    "nginx": nginx,
    "nginx-unix": lambda place: nginx(place, unix=True),
    "haproxy": haproxy,
    "haproxy-unix": lambda place: haproxy(place, unix=True),
    "dp-vllm": dp_vllm,
    "dp-vllm-unix": lambda place: dp_vllm(place, unix=True),
    "dp-vllm-log": lambda place: dp_vllm(place, log=True),
    "vllm-router": vllm_router,
    "vllm-router-cache-aware": lambda place: vllm_router(place, "cache_aware"),
    "sglang-router": sglang_router,
}
"""Every gateway by its name in the tables. `-unix`: unix sockets to the engines."""

ROUTING: Final[dict[str, Peer]] = {
    "dp-vllm": dp_vllm,
    "nginx-least-conn": lambda place: nginx(place, balance="least_conn;"),
    "vllm-router-cache-aware": PEERS["vllm-router-cache-aware"],
    "sglang-router-cache-aware": lambda place: sglang_router(place, "cache_aware"),
}
"""Who is compared by where it sends requests, each by its best way to choose; ours by its default."""
