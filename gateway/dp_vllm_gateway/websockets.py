"""WebSockets between clients and replicas: which replica, the handshake with it, and how many there may be.

aiohttp speaks the protocol on both sides. A socket holds one lease for its life (`websocket_session`). The key comes
from the Authorization header or, as browsers can only send it, as the sub-protocol `openai-insecure-api-key.KEY`, which
no engine sees.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from dp_vllm import names
from dp_vllm_gateway import paths, refusals
from dp_vllm_gateway.body import Bodies
from dp_vllm_gateway.call import Call
from dp_vllm_gateway.config import GatewayConfig
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.member import Member
from dp_vllm_gateway.outcome import Failed
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.replies import Refusal, unavailable
from dp_vllm_gateway.retry import Failure
from dp_vllm_gateway.routing.router import Router
from dp_vllm_gateway.shares import may_take
from dp_vllm_gateway.websocket_session import (
    CLOSE_SECONDS,
    GOING_AWAY,
    MESSAGE_BYTES,
    Client,
    End,
    Engine,
    MeteredClient,
    Session,
    closed,
)

KEY_PROTOCOL: Final = "openai-insecure-api-key."

HANDSHAKE_SECONDS: Final = 30.0
"""How long an engine may take to accept a socket."""

SLOTS_SHARE: Final = 0.5
"""Of the sequences that a replica may have in flight, so many may be WebSockets: they last, and wait for no turn."""


class Offered(NamedTuple):
    """What a client offers to speak."""

    protocols: tuple[str, ...]
    """Without the key."""
    key: bytes | None


def offered(request: web.BaseRequest | None) -> Offered | None:
    """The sub-protocols of a request for a WebSocket; None for any other request, and for none."""
    if request is None or request.method != "GET" or request.headers.get("Upgrade", "").strip().lower() != "websocket":
        return None
    listed = ",".join(request.headers.getall("Sec-WebSocket-Protocol", ())).split(",")
    protocols = [name for protocol in listed if (name := protocol.strip())]
    keys = [name.removeprefix(KEY_PROTOCOL).encode() for name in protocols if name.startswith(KEY_PROTOCOL)]
    others = tuple(name for name in protocols if not name.startswith(KEY_PROTOCOL))
    return Offered(others, keys[0] if keys else None)


class WebSockets:
    """Owns the sockets that are open."""

    def __init__(self, config: GatewayConfig, pool: Pool, router: Router, bodies: Bodies) -> None:
        self._limits = config.limits
        self._router = router
        self._pool = pool
        self._bodies = bodies
        self._most = max(1, int(config.limits.max_replica_sequences * SLOTS_SHARE) // config.workers)
        """At one replica, from this process."""
        self.open: Counter[str] = Counter()
        """By replica."""
        self._by_key: Counter[str] = Counter()
        self._stopped: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    def stop(self, message: str) -> None:
        """Close all sockets because the gateway ends."""
        if not self._stopped.done():
            self._stopped.set_result(End(GOING_AWAY, message))

    async def carry(self, request: web.BaseRequest, target: str, lines: bytes, offer: Offered, call: Call) -> None:
        """Connect the client to a replica and pass messages until one of them ends it.

        Raises Refusal if the handshake is none, if no replica could be connected to, or if the engine refuses.
        """
        if not web.WebSocketResponse().can_prepare(_speaking(request, None)):
            raise Refusal(400, "the WebSocket's handshake is not one", code="bad_handshake")
        facts = Facts(model=paths.query_value(target, "model"))
        tried: list[str] = []
        failed: Failed | None = None
        while True:
            member = self._choose(facts, tried, failed, call.key)
            tried.append(member.name)
            call.attempts += 1
            call.replica = member.name
            with self._pool.lease(member, facts) as lease, self._counted(member, call.key):
                async with _session(member, self._limits.connect_seconds) as session:
                    try:
                        engine = await self._open(session, member, target, lines, offer)
                    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                        self._pool.not_connected(member)
                        failed = Failed(Failure.CONNECT, str(error))
                        continue
                    lease.answering()
                    await self._join(request, engine, member, offer, call)
                    return

    def _choose(self, facts: Facts, tried: list[str], failed: Failed | None, key: str) -> Member:
        candidates = self._pool.candidates(facts, tried, full=True)
        with_slots = [member for member in candidates if self.open[member.name] < self._most]
        if candidates:
            self._judge_number(candidates, with_slots, key)
        choice = self._router.choose(with_slots, facts)
        if choice is not None:
            return choice.picked
        raise refusals.for_failure(failed, tried[-1]) if failed else refusals.none_fits(self._pool, facts)

    def _judge_number(self, candidates: Sequence[Member], with_slots: Sequence[Member], key: str) -> None:
        """Raise Refusal if there are too many WebSockets, of all or of this key."""
        if not with_slots:
            message = f"each replica has {self._most} WebSockets, which is as many as it may"
            raise unavailable(503, message, retry_after_seconds=5, code="too_many_websockets")
        taken = sum(self.open[member.name] for member in candidates)
        if key and not may_take(1, self._by_key[key], taken, self._most * len(candidates)):
            message = f"this API key has {self._by_key[key]} WebSockets, which is its share"
            raise unavailable(429, message, retry_after_seconds=5, code="too_many_websockets")

    @contextlib.contextmanager
    def _counted(self, member: Member, key: str) -> Iterator[None]:
        self.open[member.name] += 1
        self._by_key[key] += 1
        try:
            yield
        finally:
            for counts, name in ((self.open, member.name), (self._by_key, key)):
                counts[name] -= 1
                if not counts[name]:
                    del counts[name]

    async def _open(
        self, session: aiohttp.ClientSession, member: Member, target: str, lines: bytes, offer: Offered
    ) -> Engine:
        """The engine's side. Raises aiohttp's errors of connecting, and Refusal for whatever fails after that."""
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                return await session.ws_connect(
                    URL(f"http://{member.host.decode()}{target}", encoded=True),
                    protocols=offer.protocols,
                    headers=_headers(lines),
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
                    autoclose=False,
                    autoping=False,
                    max_msg_size=self._limits.max_body_bytes,
                    decode_text=False,
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise
        except aiohttp.WSServerHandshakeError as error:
            if 400 <= error.status < 500:
                raise Refusal(error.status, f"replica {member.name} refused the WebSocket") from error
            failed = Failed(Failure.GARBAGE, f"the handshake has status {error.status}")
        except TimeoutError:
            failed = Failed(Failure.TIMEOUT, f"no handshake within {HANDSHAKE_SECONDS:g} s")
        except aiohttp.ClientError as error:
            failed = Failed(Failure.DIED, str(error))
        raise refusals.for_failure(failed, member.name)

    async def _join(self, request: web.BaseRequest, engine: Engine, member: Member, offer: Offered, call: Call) -> None:
        end = End(GOING_AWAY)
        session = Session(self._limits, self._bodies, call)
        try:
            client = await self._accept(request, engine, member, offer, call, session)
            end = await session.join(client, engine, self._stopped)
        finally:
            session.stop()
            await closed(engine, end)
        if not await closed(client, end) and request.transport is not None:
            request.transport.abort()

    async def _accept(
        self,
        request: web.BaseRequest,
        engine: Engine,
        member: Member,
        offer: Offered,
        call: Call,
        session: Session,
    ) -> Client:
        protocol = engine.protocol
        if protocol is None and offer.key is not None and offer.protocols:
            protocol = offer.protocols[0]  # the key was among the offers, and a browser gives up if none is taken
        client = MeteredClient(
            session.count,
            timeout=CLOSE_SECONDS,
            autoclose=False,
            autoping=False,
            protocols=(protocol,) if protocol else (),
            compress=False,
            max_msg_size=min(self._limits.max_body_bytes, MESSAGE_BYTES),
            decode_text=False,
        )
        client.headers[names.REPLICA_HEADER] = member.name
        client.headers["x-request-id"] = call.id
        await client.prepare(_speaking(request, protocol))
        call.status, call.stream = 101, True
        call.answered_at = asyncio.get_running_loop().time()
        return client


def _speaking(request: web.BaseRequest, protocol: str | None) -> web.BaseRequest:
    """The request as if it offered this sub-protocol alone: so aiohttp chooses it, and has no key to log."""
    headers = CIMultiDict(request.headers)
    headers.popall("Sec-WebSocket-Protocol", None)
    if protocol is not None:
        headers["Sec-WebSocket-Protocol"] = protocol
    return request.clone(headers=headers)


def _session(member: Member, connect_seconds: float) -> aiohttp.ClientSession:
    address = member.endpoint.address
    connector: aiohttp.BaseConnector
    if address.startswith("unix:"):
        connector = aiohttp.UnixConnector(address.removeprefix("unix:"))
    else:
        connector = aiohttp.TCPConnector()
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
    )


def _headers(lines: bytes) -> CIMultiDict[str]:
    """The request's header lines, without those of the handshake: that with the engine is another one."""
    pairs = (line.decode(errors="replace").partition(": ") for line in lines.splitlines())
    return CIMultiDict((name, value) for name, _, value in pairs if not name.lower().startswith("sec-websocket-"))
