"""Runs one gateway process: sockets, tasks, and an end in order."""

import asyncio
import contextlib
import logging
import math
import random
import signal
import ssl
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, Final

from dp_vllm.endpoints import EndpointSet
from dp_vllm.errors import BadSettings
from dp_vllm.policy import BY_WAIT
from dp_vllm_gateway import admin, listeners, request_line, sockets
from dp_vllm_gateway.app import Gateway
from dp_vllm_gateway.clients import Server
from dp_vllm_gateway.config import GatewayConfig, Tls
from dp_vllm_gateway.crowd import Crowd, most_clients
from dp_vllm_gateway.discovery import file, static
from dp_vllm_gateway.discovery.contact import Contact
from dp_vllm_gateway.journal import Journal
from dp_vllm_gateway.keys import Keys
from dp_vllm_gateway.listeners import Listeners
from dp_vllm_gateway.peers.streams import Streams
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.probe import Probes
from dp_vllm_gateway.workers.place import Place

log = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.5
"""How often time limits and files are looked at."""

FIRST_LOOK_SECONDS: Final = 1.0
"""How long clients wait at most for the gateway's first look at its replicas."""

IDLE_CLIENT_SECONDS: Final = 5.0
"""In a cluster: for so long after SIGTERM a client's connection is kept for a request that tells it to move."""

LOOK_SECONDS: Final = 0.05
"""How often clients are counted at the end."""

FLUSH_SECONDS: Final = 1.0
"""How long clients may take the last words at the end."""


async def run(config: GatewayConfig, place: Place | None = None) -> None:
    """Serve until told to end (SIGTERM, SIGINT); at a place among several processes, if one is given."""
    with _journal(config) as journal:
        await _serve(config, journal, place)


@contextlib.contextmanager
def _journal(config: GatewayConfig) -> Iterator[Journal | None]:
    if not config.access_log:
        yield None
        return
    with contextlib.closing(Journal(request_line.as_json if config.json_log else request_line.text)) as journal:
        yield journal


async def _serve(config: GatewayConfig, journal: Journal | None, place: Place | None) -> None:
    loop = asyncio.get_running_loop()
    keys = Keys(config.api_keys, config.api_key_file, config.admin_api_keys, config.admin_api_key_file)
    if config.kubernetes is None:  # in a cluster the Secret may come later
        keys.demand_usable()
    for problem in keys.problems():
        log.error("%s", problem)
    limits = config.limits
    pool = Pool(
        connect_seconds=limits.connect_seconds,
        clock=loop.time,
        most_sequences=limits.max_replica_sequences,
        ahead_seconds=limits.replica_ahead_seconds if config.policy in BY_WAIT else math.inf,
    )
    contact = Contact()
    door = config.kubernetes.peers if config.kubernetes is not None else None
    peers = Streams(door.address, door.port) if door is not None else None
    discovery = await _discovery(config, contact, peers)
    gateway = Gateway(config, pool, keys, journal, contact, place, peers)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT) if place is None else (signal.SIGTERM,):
        loop.add_signal_handler(number, ended.set)
    clients = Crowd(most_clients(), config.max_address_connections)
    server = Server(gateway.handle, idle_client_seconds=limits.idle_client_seconds, crowd=clients)
    tls = _tls(config.tls)
    with listeners.opened(config) if place is None else contextlib.nullcontext(place.listeners) as doors:
        async with admin.serving(doors, gateway.own), asyncio.TaskGroup() as group:
            background = (_discover(discovery, pool), _probes(config, gateway, pool).run(), _tick(gateway, keys, pool))
            tasks = [group.create_task(task) for task in background]
            await _first_look(pool)
            if gateway.team is not None:
                gateway.team.join()
                tasks.append(group.create_task(gateway.team.run()))
            if peers is not None and doors.peers is not None:
                tasks.append(group.create_task(peers.run(doors.peers)))
            async with _serving(server, doors, tls) as opened:
                if place is not None:
                    place.serves()
                await ended.wait()
                moves = config.kubernetes is not None  # to other gateways, which take over
                if moves:
                    _close(opened)
                last = _clients_moved(server) if moves else gateway.idle()
                await _finish(config, gateway, last, server, ended)
            for task in tasks:
                task.cancel()


def _probes(config: GatewayConfig, gateway: Gateway, pool: Pool) -> Probes:
    key = config.replica_api_key
    return Probes(
        pool,
        every_seconds=config.limits.probe_seconds,
        lines=f"authorization: Bearer {key}\r\n".encode() if key else b"",
        bring_up_to_date=gateway.broadcasts.bring_up_to_date,
    )


async def _first_look(pool: Pool) -> None:
    """Know the replicas before the first request is read: a gateway that was restarted would refuse it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FIRST_LOOK_SECONDS):
            while not pool.known or pool.unseen():
                await pool.changed()


@contextlib.asynccontextmanager
async def _serving(server: Server, doors: Listeners, tls: ssl.SSLContext | None) -> AsyncIterator[list[asyncio.Server]]:
    loop = asyncio.get_running_loop()
    opened = [await loop.create_server(server, sock=sock, backlog=sockets.BACKLOG, ssl=tls) for sock in doors.endpoint]
    try:
        yield opened
    finally:
        _close(opened)


def _close(opened: list[asyncio.Server]) -> None:
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


async def _discovery(config: GatewayConfig, contact: Contact, peers: Streams | None) -> AsyncIterator[EndpointSet]:
    """Where endpoints come from. Raises UserError if there is no way to log in to the cluster."""
    if config.kubernetes is None:
        return static.once(config.replicas) if config.endpoints_file is None else file.watch(config.endpoints_file)
    from dp_vllm_gateway.discovery import kubernetes  # only now: it costs 26 MB and a second

    namespace = await kubernetes.namespace_of_login()
    model, namespace = config.kubernetes.name, config.kubernetes.namespace or namespace
    clock = asyncio.get_running_loop().time
    on_gateways = peers.sync if peers is not None else None
    rng = random.SystemRandom()
    return kubernetes.Replicas(model, namespace, contact, clock=clock, rng=rng, on_gateways=on_gateways).watch()


async def _discover(sets: AsyncIterator[EndpointSet], pool: Pool) -> None:
    async for endpoints in sets:
        pool.sync(endpoints)


async def _tick(gateway: Gateway, keys: Keys, pool: Pool) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(TICK_SECONDS)
        gateway.proxy.check(loop.time())
        keys.refresh()
        pool.tick()


async def _clients_moved(server: Server) -> None:
    """Wait until all clients have left. One that keeps its connection and asks nothing is not waited for long."""
    loop = asyncio.get_running_loop()
    end = loop.time() + IDLE_CLIENT_SECONDS
    while server.open() if loop.time() < end else server.busy():  # noqa: ASYNC110 - nobody tells of both
        await asyncio.sleep(LOOK_SECONDS)


async def _finish(
    config: GatewayConfig, gateway: Gateway, done: Coroutine[Any, Any, None], server: Server, ended: asyncio.Event
) -> None:
    """Let what is under way end, up to the limit or a second signal; then tell the rest."""
    gateway.end()
    ended.clear()
    async with asyncio.TaskGroup() as group:
        last = group.create_task(done)
        # Whoever handed us our sockets kills us to end sooner, and Slurm sends each process of a job what it sends us.
        again = group.create_task(asyncio.Event().wait() if config.listen_fds else ended.wait())
        limit = config.shutdown_timeout_seconds
        await asyncio.wait((last, again), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        gateway.proxy.stop("the server is shutting down")
        gateway.websockets.stop("the server is shutting down")
        await asyncio.wait((last,), timeout=FLUSH_SECONDS)
        last.cancel()
        again.cancel()
    server.pre_shutdown()  # idle connections end at once
    await server.shutdown(FLUSH_SECONDS)
