"""Runs one gateway process: sockets, tasks, and an end in order."""

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Final

from dp_vllm.errors import BadSettings
from dp_vllm_gateway import admin, request_line, sockets
from dp_vllm_gateway.app import Gateway
from dp_vllm_gateway.clients import Server
from dp_vllm_gateway.config import GatewayConfig, Tls
from dp_vllm_gateway.discovery import file, static
from dp_vllm_gateway.journal import Journal
from dp_vllm_gateway.keys import Keys
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.probe import Probes

TICK_SECONDS: Final = 0.5
"""How often time limits and files are looked at."""

FIRST_LOOK_SECONDS: Final = 1.0
"""How long clients wait at most for the gateway's first look at its replicas."""

FLUSH_SECONDS: Final = 1.0
"""How long clients may take the last words at the end."""


async def run(config: GatewayConfig) -> None:
    """Serve until told to end (SIGTERM, SIGINT)."""
    with _journal(config) as journal:
        await _serve(config, journal)


@contextlib.contextmanager
def _journal(config: GatewayConfig) -> Iterator[Journal | None]:
    if not config.access_log:
        yield None
        return
    with contextlib.closing(Journal(request_line.as_json if config.json_log else request_line.text)) as journal:
        yield journal


async def _serve(config: GatewayConfig, journal: Journal | None) -> None:
    loop = asyncio.get_running_loop()
    keys = Keys(config.api_keys, config.api_key_file)
    keys.demand_usable()
    pool = Pool(connect_seconds=config.limits.connect_seconds, clock=loop.time)
    gateway = Gateway(config, pool, keys, journal)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    key = config.replica_api_key
    probes = Probes(
        pool,
        every_seconds=config.limits.probe_seconds,
        lines=f"authorization: Bearer {key}\r\n".encode() if key else b"",
        bring_up_to_date=gateway.broadcasts.bring_up_to_date,
    )
    server = Server(gateway.handle, idle_client_seconds=config.limits.idle_client_seconds)
    tls = _tls(config.tls)
    with _sockets(config) as listeners:
        async with admin.listening(config, gateway, pool), asyncio.TaskGroup() as group:
            background = (_discover(config, pool), probes.run(), _tick(gateway, keys))
            tasks = [group.create_task(task) for task in background]
            await _first_look(pool)
            async with _serving(server, listeners, tls):
                await ended.wait()
                await _finish(config, gateway, pool, server, ended)
            for task in tasks:
                task.cancel()


@contextlib.contextmanager
def _sockets(config: GatewayConfig) -> Iterator[list[socket.socket]]:
    """The endpoint's listening sockets: from here on clients can connect, and wait."""
    if config.listen_fds:
        yield [socket.socket(fileno=fd) for fd in config.listen_fds]
    elif config.uds is not None:
        with sockets.unix(config.uds, "--uds", mode=0o666) as listener:
            yield [listener]
    else:
        with contextlib.closing(sockets.tcp(config.host, config.port, "--port")) as listener:
            yield [listener]


async def _first_look(pool: Pool) -> None:
    """Know the replicas before the first request is read: a gateway that was restarted would refuse it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FIRST_LOOK_SECONDS):
            while not pool.known or pool.unseen():
                await pool.changed()


@contextlib.asynccontextmanager
async def _serving(server: Server, listeners: list[socket.socket], tls: ssl.SSLContext | None) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    opened = [await loop.create_server(server, sock=sock, backlog=sockets.BACKLOG, ssl=tls) for sock in listeners]
    try:
        yield
    finally:
        for listening in opened:
            listening.close()


def _tls(tls: Tls | None) -> ssl.SSLContext | None:
    if tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certfile, tls.keyfile)
        if tls.ca_certs is not None:
            context.load_verify_locations(tls.ca_certs)
        context.verify_mode = ssl.VerifyMode(tls.cert_reqs)
        if tls.ciphers is not None:
            context.set_ciphers(tls.ciphers)
    except OSError as error:  # ssl.SSLError is one
        given = f"--ssl-certfile {tls.certfile}, --ssl-keyfile {tls.keyfile}, --ssl-ca-certs {tls.ca_certs}"
        raise BadSettings(f"TLS cannot be served with {given}, --ssl-ciphers {tls.ciphers}: {error}") from error
    return context


async def _discover(config: GatewayConfig, pool: Pool) -> None:
    if config.endpoints_file is None:
        pool.sync(static.endpoints_of(config.replicas))
        return
    async for endpoints in file.watch(config.endpoints_file):
        pool.sync(endpoints)


async def _tick(gateway: Gateway, keys: Keys) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(TICK_SECONDS)
        gateway.proxy.check(loop.time())
        keys.refresh()


async def _finish(config: GatewayConfig, gateway: Gateway, pool: Pool, server: Server, ended: asyncio.Event) -> None:
    """Let what is under way end, up to the limit or a second signal; then tell the rest."""
    gateway.end()
    ended.clear()
    async with asyncio.TaskGroup() as group:
        last = group.create_task(pool.idle())
        again = group.create_task(ended.wait())
        limit = config.shutdown_timeout_seconds
        await asyncio.wait((last, again), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        gateway.proxy.stop("the server is shutting down")
        gateway.websockets.stop("the server is shutting down")
        await asyncio.wait((last,), timeout=FLUSH_SECONDS)
        last.cancel()
        again.cancel()
    server.pre_shutdown()  # idle connections end at once
    await server.shutdown(FLUSH_SECONDS)
