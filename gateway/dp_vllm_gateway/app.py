"""One gateway process: what each request passes through before it is sent on, and what the gateway answers itself."""

import asyncio
import random
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from dp_vllm.engine.routes import UNKNOWN, Reach, Route, is_admin_path, methods_of, route_of
from dp_vllm_gateway import bounds, cors, merged, multipart, paths, refusals, replies, sse, waiting, websockets
from dp_vllm_gateway.asked import Asked
from dp_vllm_gateway.body import Bodies
from dp_vllm_gateway.broadcast import Broadcasts
from dp_vllm_gateway.call import Call
from dp_vllm_gateway.config import GatewayConfig
from dp_vllm_gateway.discovery.contact import Contact
from dp_vllm_gateway.exposition import Exposition
from dp_vllm_gateway.facts import BadJson, Facts, facts_of
from dp_vllm_gateway.heads import Incoming
from dp_vllm_gateway.journal import Journal
from dp_vllm_gateway.keys import Keys
from dp_vllm_gateway.metrics import Metrics
from dp_vllm_gateway.outgoing import Outgoing
from dp_vllm_gateway.own import OwnAnswers
from dp_vllm_gateway.peers.streams import Streams
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.proxy import Proxy
from dp_vllm_gateway.queue import priority_of
from dp_vllm_gateway.recording import Recording
from dp_vllm_gateway.relay import Relay
from dp_vllm_gateway.replies import Refusal
from dp_vllm_gateway.request_ids import RequestIds
from dp_vllm_gateway.routing.fair import rank_of
from dp_vllm_gateway.routing.load import BYTES_PER_TOKEN
from dp_vllm_gateway.routing.router import Router
from dp_vllm_gateway.workers import team
from dp_vllm_gateway.workers.datagrams import Datagrams
from dp_vllm_gateway.workers.place import Place
from dp_vllm_gateway.workers.wires import Wires

HEALTH_PATHS = frozenset({"/health", "/ping"})
"""Whether a replica is available; the second as SageMaker's health check calls it."""

DOCS_PATHS = frozenset({"/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})

OPEN_PATHS = HEALTH_PATHS | DOCS_PATHS | {"/ready", "/version"}
"""Answered to GET and HEAD without a key or a body: they say nothing of any client or of how the engines are set up."""

LOOK_SECONDS: Final = 0.01
"""How often it is looked whether anybody waits for room still, at the end."""

_READING: Final = frozenset({"GET", "HEAD"})

_BY_ALL: Final = (Reach.ALL, Reach.MERGED)


class Gateway:
    """Handles every request of the endpoint."""

    def __init__(
        self,
        config: GatewayConfig,
        pool: Pool,
        keys: Keys,
        journal: Journal | None,
        contact: Contact,
        place: Place | None = None,
        peers: Streams | None = None,
    ) -> None:
        """`place` is this process's among those that serve together, if there are several."""
        self._config = config
        self._pool = pool
        self._keys = keys
        self._bodies = Bodies(config.limits)
        router = Router(config.policy, prefix_weight=config.prefix_weight, rng=random.Random())  # noqa: S311 - no secret
        self.proxy = Proxy(config, pool, router)
        self.broadcasts = Broadcasts(pool, seconds=config.limits.change_seconds, on_forget=self._forget_prefixes)
        self.websockets = websockets.WebSockets(config, pool, router, self._bodies)
        self._merged = merged.Merged(config, pool)
        self._waiting = waiting.Waiting(pool, config.limits.max_queued_requests)
        self._journal = journal
        self._recording = Recording(config.record) if config.record is not None else None
        self._metrics = Metrics()
        exposition = Exposition(self._metrics, pool, self._bodies, contact, self.proxy.queue)
        workers = self._team(Datagrams(place), self._answers(exposition)) if place is not None else None
        self.team = workers or (self._team(peers, {}) if peers is not None else None)
        """Those that are told what this process does, and tell, if there are any."""
        exposition.websockets = self.websockets.open
        exposition.peers = peers.count if peers is not None else None
        exposition.message_errors = self.team.errors if self.team is not None else None
        self.own = OwnAnswers(
            *(pool, keys, contact, exposition, self.proxy.queue, self.proxy.decisions, workers),
            ending=lambda: self.ending,
        )
        self._loop = asyncio.get_running_loop()
        self._ids = RequestIds()
        self._moves_clients = config.kubernetes is not None
        self.ending = False
        """The gateway was told to end: what is under way goes on, nothing new begins."""

    def _team(self, wires: Wires, answers: Mapping[str, Callable[[], bytes]]) -> team.Team:
        return team.Team(wires, self._pool, self.proxy.queue, self.proxy.homes, self.broadcasts, answers)

    def _answers(self, exposition: Exposition) -> Mapping[str, Callable[[], bytes]]:
        proxy, now = self.proxy, asyncio.get_running_loop().time
        return {
            team.METRICS: lambda: exposition.own(now()),
            team.DECISIONS: lambda: msgspec.json.encode(proxy.decisions.told()),
        }

    def end(self) -> None:
        """Begin nothing new, and hold nobody who waits for a replica."""
        self.ending = True
        self._pool.wake()
        if self._recording is not None:
            self._recording.end()

    async def idle(self) -> None:
        """Wait until nothing is in flight, and nobody waits for that."""
        await self._pool.idle()
        while self.proxy.queue.requests:
            await asyncio.sleep(LOOK_SECONDS)  # who may go has a lease then
            await self._pool.idle()

    async def handle(self, asked: Asked, relay: Relay) -> None:
        """Answer one request."""
        call = Call(self._id(asked.incoming), asked.method, asked.target, self._loop.time())
        try:
            await self._answer(asked, relay, call)
        except Refusal as refusal:
            self._refuse(refusal, asked.incoming, relay, call)
        except (asyncio.CancelledError, ConnectionError):
            call.status, call.reason = 499, "client_left"
            raise
        finally:
            call.ended_at = self._loop.time()
            self._record(call)

    def _record(self, call: Call) -> None:
        call.status = call.status or 500
        self._metrics.record(call)
        if self._journal is not None:
            self._journal.record(call)

    def _id(self, incoming: Incoming) -> str:
        given = incoming.request_id()
        return given.decode() if given else self._ids.next()

    async def _answer(self, asked: Asked, relay: Relay, call: Call) -> None:
        path, target = paths.target_of(call.path, self._config.root_path)
        route = route_of(call.method, path)
        call.path, call.route = path, route.path
        incoming = asked.incoming
        offer = None
        if call.method == "OPTIONS" or (path in OPEN_PATHS and call.method in _READING):
            _refuse_body(call, incoming)
            response = self._keyless(call, path, incoming)
            if response is not None:
                self._own(call, incoming, relay, response)
                return
        else:
            offer = websockets.offered(asked.upgrade)
            self._guard(path, route, incoming.bearer() or (offer.key if offer else None), call)
        if path == "/metrics" and call.method in _READING:
            self._own(call, incoming, relay, await self.own.metrics())
            return
        if self.ending:
            self._take_last(relay, offer)
        self._judge_route(route, path, target)
        if asked.upgrade is not None and offer is not None:
            lines = self._request_lines(incoming, _id_line(call))
            await self.websockets.carry(asked.upgrade, target, lines, offer, call)
        else:
            await self._send_on(asked, relay, call, route, target)

    # what is judged before the body

    def _keyless(self, call: Call, path: str, incoming: Incoming) -> web.Response | None:
        """What the gateway answers itself, and without a key; None if a replica answers."""
        if call.method == "OPTIONS":
            return cors.preflight(self._config.cors, incoming.read)
        if path in HEALTH_PATHS:
            return self.own.health()
        return self.own.ready() if path == "/ready" else None

    def _guard(self, path: str, route: Route, key: bytes | None, call: Call) -> None:
        if not self._keys.required:
            return
        if self._keys.problem:
            raise Refusal(401, "the endpoint has no usable API key", headers={"WWW-Authenticate": "Bearer"})
        holder = self._keys.holder_of(key)
        if holder is None:
            raise Refusal(
                401,
                "Incorrect or missing API key. Send it as `Authorization: Bearer KEY`.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        call.key, call.admin = holder.name, holder.admin
        concerns_all = route.admin or (route is UNKNOWN and is_admin_path(path))
        if concerns_all and self._keys.restricted and not holder.admin:
            message = f"{path} concerns the whole deployment and needs an administrator's API key"
            raise Refusal(403, message, code="admin_key_required")

    def _take_last(self, relay: Relay, offer: websockets.Offered | None) -> None:
        """The gateway ends: refuse the request, or, if others take over, answer it and let the client move to them."""
        if not self._moves_clients or offer is not None:
            raise refusals.shutting_down()
        relay.keep_alive = False

    def _judge_route(self, route: Route, path: str, target: str) -> None:
        if route.reach is Reach.NEVER and not self._config.allow_unsafe_routes:
            raise Refusal(403, f"{path} would change one replica of many; --allow-unsafe-routes opens it")
        if path in DOCS_PATHS and not self._config.docs:
            raise Refusal(404, "Not Found")
        if route is UNKNOWN and self._pool.several_models and paths.query_value(target, "model") is None:
            methods = methods_of(path)
            if methods:
                raise Refusal(405, "Method Not Allowed", headers={"Allow": ", ".join(methods)})
            raise Refusal(404, "Not Found")

    # sending on

    async def _send_on(self, asked: Asked, relay: Relay, call: Call, route: Route, target: str) -> None:
        incoming = asked.incoming
        self._expect(incoming, relay, call.key)
        body, key = asked.body, call.key
        if isinstance(body, bytes):
            self._bodies.take(len(body), key)
        else:
            body = await self._bodies.read(body, key)
        try:
            facts = self._facts(incoming, route, target, body)
            call.model, call.stream = facts.model or "", facts.stream
            id_line = _id_line(call)
            answer_lines = id_line + cors.lines(self._config.cors, incoming.read.get(b"origin"))
            of_any = route.common or (route.reach is Reach.HOME and facts.model is None)
            if of_any and self._pool.several_models:
                facts = Facts(model=self._any_model())
            wait_seconds = waiting.seconds_of(incoming.read.get(b"x-dp-vllm-wait"))
            if wait_seconds and (key or not self._keys.required) and self._pool.lacks(facts.model):
                await self._waiting.for_replica(
                    facts, relay, wait_seconds, answer_lines, key, ending=lambda: self.ending
                )
            wanted = priority_of(incoming.read.get(b"x-dp-vllm-priority"))
            priority = facts.priority if wanted is None else wanted
            lines = self._request_lines(incoming, id_line)
            rank = rank_of(priority, outranks=call.admin or not self._keys.required) if priority else 0
            out = Outgoing(call.method, target, route, lines, body, facts, priority, rank, answer_lines)
            if route.reach in _BY_ALL:
                await self._ask_all(out, relay, call)
            else:
                await self._ask_one(out, relay, call)
        finally:
            self._bodies.give_back(len(body), key)

    async def _ask_one(self, out: Outgoing, relay: Relay, call: Call) -> None:
        try:
            await self.proxy.forward(out, relay, call)
        finally:
            if self._recording is not None:
                self._recording.record(call, out)

    async def _ask_all(self, out: Outgoing, relay: Relay, call: Call) -> None:
        if out.route.reach is Reach.ALL:
            with self.proxy.aborts.requested(out.route):
                answer = await self.broadcasts.send(out)
        else:
            answer = await self._merged.answer(out)
        call.status, call.replica = answer.status, "all"
        relay.whole(answer.status, b"content-type: application/json\r\n" + out.answer_lines, answer.body)

    def _forget_prefixes(self) -> None:
        self._pool.forget_prefixes()
        if self.team is not None:
            self.team.tell_forgotten()

    def _expect(self, incoming: Incoming, relay: Relay, key: str) -> None:
        length = incoming.read.get(b"content-length")
        self._bodies.judge_length(bounds.count_of(length, sys.maxsize) if length else 0, key)
        expected = incoming.read.get(b"expect")
        if expected is None:
            return
        if expected.lower() != b"100-continue":
            raise Refusal(417, "the only Expect that is known is 100-continue")
        relay.proceed()

    def _facts(self, incoming: Incoming, route: Route, target: str, body: bytes) -> Facts:
        if route.json_body and body:
            try:  # whatever its encoding is called: engines do not look at that
                return facts_of(body, self._config.policy, incoming.read.get(b"x-session-id"))
            except BadJson as error:
                if incoming.read.get(b"content-encoding", b"identity").lower() == b"identity":
                    raise Refusal(400, f"the body is not JSON: {error}", code="bad_json") from error
        content_type = incoming.read.get(b"content-type", b"")
        form = content_type[:10].lower() == b"multipart/"
        model = multipart.text_field(body, content_type, b"model") if form else None
        stream = form and multipart.is_true(body, content_type, b"stream")
        if model is None and self._pool.several_models:
            model = paths.query_value(target, "model")
        return Facts(model=model, stream=stream, tokens=0 if form else len(body) // BYTES_PER_TOKEN)

    def _any_model(self) -> str:
        """A model that can be served now. Raises Refusal if there is none."""
        model = self._pool.any_model()
        if model is None:
            raise refusals.no_replica(self._pool)
        return model

    def _request_lines(self, incoming: Incoming, id_line: bytes) -> bytes:
        """What an engine is sent: the client's headers, the id, and a key only if engines judge keys."""
        if self._config.replica_api_key is not None:
            return b"%b%bauthorization: Bearer %b\r\n" % (
                incoming.lines,
                id_line,
                self._config.replica_api_key.encode(),
            )
        lines = incoming.lines + id_line
        if not self._keys.required:
            for name in (b"authorization", b"x-api-key"):
                if name in incoming.read:
                    lines += b"%b: %b\r\n" % (name, incoming.read[name])
        return lines

    # answers of the gateway's own

    def _own(self, call: Call, incoming: Incoming, relay: Relay, response: web.Response) -> None:
        call.status = response.status
        response.headers["x-request-id"] = call.id
        if self.ending:
            relay.keep_alive = False
        for name, value in cors.headers(self._config.cors, incoming.read.get(b"origin")).items():
            response.headers.setdefault(name, value)  # the answer to OPTIONS varies with more
        replies.send(response, relay)

    def _refuse(self, refusal: Refusal, incoming: Incoming, relay: Relay, call: Call) -> None:
        # not the message: it may quote what the client sent
        call.status, call.reason = refusal.status, refusal.code or HTTPStatus(refusal.status).name.lower()
        if relay.begun:
            relay.end(sse.error_event(route_of(call.method, call.path).dialect, refusal.message))
            return
        anthropic = call.path.startswith("/v1/messages")
        response = replies.error(
            refusal.status, refusal.message, code=refusal.code, headers=refusal.headers, anthropic=anthropic
        )
        self._own(call, incoming, relay, response)


def _refuse_body(call: Call, incoming: Incoming) -> None:
    """Refuse the body of a request that needs no key, before it is read."""
    if b"transfer-encoding" in incoming.read or incoming.read.get(b"content-length", b"0").strip(b"0"):
        raise Refusal(400, f"{call.method} {call.path} takes no body", code="unexpected_body")


def _id_line(call: Call) -> bytes:
    return f"x-request-id: {call.id}\r\n".encode()
