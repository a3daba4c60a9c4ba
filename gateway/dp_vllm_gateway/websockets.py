"""WebSockets between a client and one replica: messages, pings and the end pass through, both ways.

aiohttp speaks the protocol on both sides. A socket holds one lease for its life. The key comes from the Authorization
header or, as browsers can only send it, as the sub-protocol `openai-insecure-api-key.KEY`, which no engine sees.
"""

import asyncio
from typing import Final, NamedTuple

import aiohttp
from aiohttp import WSMsgType, web
from multidict import CIMultiDict
from yarl import URL

from dp_vllm import names
from dp_vllm_gateway import paths, refusals
from dp_vllm_gateway.call import Call
from dp_vllm_gateway.config import GatewayConfig
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.member import Member
from dp_vllm_gateway.outcome import Failed
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.replies import Refusal
from dp_vllm_gateway.retry import Failure
from dp_vllm_gateway.routing.router import Router

KEY_PROTOCOL: Final = "openai-insecure-api-key."

HANDSHAKE_SECONDS: Final = 30.0
"""How long an engine may take to accept a socket."""

CLOSE_SECONDS: Final = 1.0
"""How long either side may take to answer a close."""

GOING_AWAY: Final = 1001
BROKEN: Final = 1011

Client = web.WebSocketResponse[bool]
Engine = aiohttp.ClientWebSocketResponse[bool]


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


class End(NamedTuple):
    """How a socket ends: the close frame of the side that ended it, or ours."""

    code: int
    reason: str = ""


class WebSockets:
    """Owns the sockets that are open."""

    def __init__(self, config: GatewayConfig, pool: Pool, router: Router) -> None:
        self._limits = config.limits
        self._router = router
        self._pool = pool
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
            member = self._choose(facts, tried, failed)
            tried.append(member.name)
            call.attempts += 1
            call.replica = member.name
            with self._pool.lease(member, facts) as lease:
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

    def _choose(self, facts: Facts, tried: list[str], failed: Failed | None) -> Member:
        choice = self._router.choose(self._pool.candidates(facts, tried, full=True), facts)
        if choice is not None:
            return choice.picked
        raise refusals.for_failure(failed, tried[-1]) if failed else refusals.none_fits(self._pool, facts)

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
        try:
            client = await self._accept(request, engine, member, offer, call)
            async with asyncio.TaskGroup() as group:
                down = group.create_task(self._pump(engine, client, call))
                up = group.create_task(self._pump(client, engine, None))
                await asyncio.wait((down, up, self._stopped), return_when=asyncio.FIRST_COMPLETED)
                end = self._end(down, up)
                down.cancel()
                up.cancel()
        finally:
            await engine.close(code=end.code, message=end.reason.encode())
        await client.close(code=end.code, message=end.reason.encode())

    async def _accept(
        self, request: web.BaseRequest, engine: Engine, member: Member, offer: Offered, call: Call
    ) -> Client:
        protocol = engine.protocol
        if protocol is None and offer.key is not None and offer.protocols:
            protocol = offer.protocols[0]  # the key was among the offers, and a browser gives up if none is taken
        client: Client = web.WebSocketResponse(
            timeout=CLOSE_SECONDS,
            autoclose=False,
            autoping=False,
            protocols=(protocol,) if protocol else (),
            compress=False,
            max_msg_size=self._limits.max_body_bytes,
            decode_text=False,
        )
        client.headers[names.REPLICA_HEADER] = member.name
        client.headers["x-request-id"] = call.id
        await client.prepare(_speaking(request, protocol))
        call.status, call.stream = 101, True
        call.answered_at = asyncio.get_running_loop().time()
        return client

    async def _pump(self, source: Client | Engine, target: Client | Engine, call: Call | None) -> End | None:
        """Pass on what `source` sends; how it ended, None if it was gone without a word."""
        while True:
            message = await source.receive()
            if message.type in _PASSED:
                try:
                    async with asyncio.timeout(self._limits.write_seconds):
                        await target.send_frame(message.data, message.type)
                except (ConnectionError, TimeoutError):
                    return End(BROKEN, "the other side does not take what is sent")
                if call is not None:
                    call.chunks += 1
            elif message.type is WSMsgType.CLOSE:
                return End(message.data or aiohttp.WSCloseCode.OK, message.extra or "")
            elif isinstance(message.data, aiohttp.WebSocketError):
                return End(message.data.code, str(message.data))
            else:
                return None

    def _end(self, down: asyncio.Task[End | None], up: asyncio.Task[End | None]) -> End:
        if self._stopped.done():
            return self._stopped.result()
        if down.done():
            return down.result() or End(BROKEN, "the replica failed")
        return up.result() or End(GOING_AWAY)


_PASSED: Final = frozenset({WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.PING, WSMsgType.PONG})


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
