"""WebSockets between a client and a replica."""

import asyncio
import contextlib
import json
import select
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import programs
import pytest
import wire
from aiohttp import WSMsgType
from ports import free_port
from programs import Program

ENGINE = Path(__file__).parents[1] / "realtime_engine.py"
PATH = "/v1/realtime"
UPGRADE = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}


def engine(directory: Path, socket: Path | None = None) -> AbstractContextManager[Program]:
    """A real engine on a port, or on a unix socket."""
    port = free_port()
    url = f"unix:{socket}" if socket else f"http://127.0.0.1:{port}"
    argv = programs.python(str(ENGINE), str(socket or port))
    return programs.running(argv, directory / f"engine-{port}.log", url=url, ready=lambda: healthy(url))


def healthy(url: str) -> bool:
    """Whether the engine answers. Its socket's file is there before it listens."""
    try:
        return wire.ask(url, "GET", "/health").status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    directory = tmp_path_factory.mktemp("engine")
    with engine(directory, directory / "engine.sock") as program:
        yield program


@pytest.fixture(scope="module")
def shared(replica: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    directory = tmp_path_factory.mktemp("gateway")
    admin = directory / "admin.sock"
    flags = ("--replica", replica.url, "--max-body-bytes", "100000", "--admin-socket", str(admin))
    with programs.gateway(directory, *flags) as program:
        yield program.url, f"unix:{admin}"


@pytest.fixture
def url(shared: tuple[str, str]) -> Iterator[str]:
    """Where a gateway listens. However a test's sockets end, none is in flight after it."""
    url, admin = shared
    yield url
    programs.wait_until(lambda: not wire.in_flight(admin), "nothing is in flight")


@pytest.fixture(scope="module")
def guarded(replica: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    flags = ("--replica", replica.url, "--api-key", "ours", "--replica-api-key", "theirs")
    with programs.gateway(tmp_path_factory.mktemp("gateway"), *flags) as program:
        yield program.url


@asynccontextmanager
async def connected(url: str, path: str = PATH, **how: Any) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with aiohttp.ClientSession() as session, session.ws_connect(url + path, max_msg_size=0, **how) as socket:
        yield socket


async def refused(url: str, path: str = PATH, **how: Any) -> aiohttp.WSServerHandshakeError:
    with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
        async with connected(url, path, **how):
            pass
    return raised.value


async def last_words(socket: aiohttp.ClientWebSocketResponse) -> tuple[int, str]:
    """The close frame's code and reason."""
    message = await socket.receive(timeout=programs.START_SECONDS)
    assert message.type is WSMsgType.CLOSE, message
    return message.data, str(message.extra)


async def test_texts_and_bytes_pass_both_ways(url: str) -> None:
    async with connected(url) as socket:
        for text in ("hello", "", "ünïcödé", "x" * 90_000):
            await socket.send_str(text)
            assert await socket.receive_str() == text
        await socket.send_bytes(bytes(range(256)))
        assert await socket.receive_bytes() == bytes(range(256))


async def test_a_ping_is_answered(url: str) -> None:
    async with connected(url, autoping=False) as socket:
        await socket.ping(b"are you there?")
        answer = await socket.receive()
        assert (answer.type, answer.data) == (WSMsgType.PONG, b"are you there?")


async def test_the_engine_sees_the_clients_headers_and_the_client_who_answers(url: str) -> None:
    headers = {"x-request-id": "r-1", "x-mine": "yes", "Authorization": "Bearer passed"}
    async with connected(url, PATH + "?a=%20b", headers=headers) as socket:
        assert socket._response.headers["x-dp-vllm-replica"] == "0"
        assert socket._response.headers["x-request-id"] == "r-1"
        await socket.send_str("headers")
        seen = {name.lower(): value for name, value in json.loads(await socket.receive_str()).items()}
    assert (seen["x-request-id"], seen["x-mine"], seen["authorization"]) == ("r-1", "yes", "Bearer passed")


async def test_the_engine_chooses_the_sub_protocol(url: str) -> None:
    async with connected(url, PATH + "?speak=b", protocols=("a", "b")) as socket:
        assert socket.protocol == "b"
    async with connected(url, PATH, protocols=("a", "b")) as socket:
        assert socket.protocol is None


async def test_a_key_may_come_as_a_sub_protocol_which_no_engine_sees(guarded: str) -> None:
    offers = ("realtime", "openai-insecure-api-key.ours", "beta")
    async with connected(guarded, protocols=offers) as socket:
        assert socket.protocol == "realtime", "a browser gives up if none of its offers is taken"
        await socket.send_str("headers")
        seen = json.loads(await socket.receive_str())
    assert seen["Sec-WebSocket-Protocol"] == "realtime,beta"
    assert seen["Authorization"] == "Bearer theirs"
    async with connected(guarded, PATH + "?speak=beta", protocols=offers) as socket:
        assert socket.protocol == "beta"


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"protocols": ("openai-insecure-api-key.wrong",)},
        {"headers": {"Authorization": "Bearer wrong"}},
        {"headers": {"Authorization": "Bearer wrong"}, "protocols": ("openai-insecure-api-key.ours",)},
    ],
)
async def test_a_missing_or_wrong_key_is_refused(guarded: str, how: dict[str, Any]) -> None:
    assert (await refused(guarded, **how)).status == 401


async def test_a_key_in_the_header_opens(guarded: str) -> None:
    async with connected(guarded, headers={"Authorization": "Bearer ours"}) as socket:
        await socket.send_str("hello")
        assert await socket.receive_str() == "hello"


async def test_the_engines_close_code_and_reason_reach_the_client(url: str) -> None:
    async with connected(url, autoclose=False) as socket:
        await socket.send_str("close 4321 that is all")
        assert await last_words(socket) == (4321, "that is all")


async def test_the_clients_close_code_reaches_the_engine(url: str, replica: Program) -> None:
    async with connected(url) as socket:
        await socket.close(code=4567, message=b"enough")
        assert socket.close_code == 4567
    programs.wait_until(lambda: "closed 4567" in replica.output(), "the engine is told")


def test_a_client_that_vanishes_ends_the_engines_side(url: str, replica: Program) -> None:
    before = replica.output().count("closed 1001")
    with wire.line(url) as line:
        line.send(wire.request("GET", PATH, headers={**UPGRADE, "sec-websocket-key": "MDEyMzQ1Njc4OTAxMjM0NQ=="}))
        assert line.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    programs.wait_until(lambda: replica.output().count("closed 1001") > before, "the engine is told")


async def test_a_message_beyond_the_limit_ends_the_socket(url: str) -> None:
    async with connected(url, autoclose=False) as socket:
        await socket.send_bytes(bytes(100_001))
        assert (await last_words(socket))[0] == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
    async with connected(url, autoclose=False) as socket:
        await socket.send_str("send 100001")
        assert (await last_words(socket))[0] == aiohttp.WSCloseCode.MESSAGE_TOO_BIG


@pytest.mark.parametrize(("said", "told"), [(403, 403), (418, 418), (500, 502), (200, 502)])
async def test_an_engine_that_refuses_is_believed(url: str, said: int, told: int) -> None:
    error = await refused(url, f"/refuse/{said}")
    assert error.status == told
    assert error.headers is not None and error.headers["content-type"] == "application/json"


@pytest.mark.parametrize("wrong", [{}, {"sec-websocket-key": "no"}, {"sec-websocket-version": "1"}])
def test_a_handshake_that_is_none_is_400_and_ends_the_connection(url: str, wrong: dict[str, str]) -> None:
    with wire.line(url) as line:
        line.send(wire.request("GET", PATH, headers=UPGRADE | wrong))
        answer = line.answer()
        assert (answer.status, answer.error["code"]) == (400, "bad_handshake")
        assert answer.headers["connection"] == "close"


def test_what_was_asked_before_a_websocket_is_answered_before_it(url: str) -> None:
    key = {"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}
    with wire.line(url) as line:
        line.send(wire.request("GET", "/health"), wire.request("GET", PATH, headers=UPGRADE | key))
        assert [line.answer().status, line.answer().status] == [200, 101]


async def test_the_death_of_the_engine_is_told_as_an_error_and_then_another_one_is_used(tmp_path: Path) -> None:
    with (
        engine(tmp_path) as first,
        engine(tmp_path) as second,
        programs.gateway(tmp_path, "--replica", first.url, "--replica", second.url) as gateway,
    ):
        async with connected(gateway.url, autoclose=False) as socket:
            assert socket._response.headers["x-dp-vllm-replica"] == "0"
            await socket.send_str("die")
            assert await last_words(socket) == (1011, "the replica failed")
        for _ in range(2):
            async with connected(gateway.url) as socket:
                assert socket._response.headers["x-dp-vllm-replica"] == "1"
        second.signal(signal.SIGKILL)
        second.wait()
        error = await refused(gateway.url)
        assert error.status == 503
        assert error.headers is not None and "retry-after" in error.headers


async def test_when_the_gateway_ends_its_sockets_are_told(replica: Program, tmp_path: Path) -> None:
    flags = ("--replica", replica.url, "--shutdown-timeout", "0.2")
    with programs.gateway(tmp_path, *flags) as gateway:
        async with connected(gateway.url, autoclose=False) as socket:
            gateway.signal(signal.SIGTERM)
            assert await last_words(socket) == (1001, "the server is shutting down")
            await socket.close()
        assert await asyncio.to_thread(gateway.wait) == 0


# what one client may take


@pytest.fixture(scope="module")
def tight(replica: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A gateway with three keys and low limits, and its admin socket: four WebSockets, and 1,000,000 bytes."""
    directory = tmp_path_factory.mktemp("gateway")
    limits = "--max-replica-sequences 8 --max-buffered-bytes 1000000 --max-body-bytes 1000000 --write-seconds 0.3"
    keys = [word for key in "abc" for word in ("--api-key", key)]
    flags = ("--replica", replica.url, *keys, "--admin-socket", str(directory / "admin"))
    with programs.gateway(directory, *flags, *limits.split()) as program:
        yield program.url, f"unix:{directory / 'admin'}"


@pytest.fixture
def limited(tight: tuple[str, str]) -> Iterator[str]:
    """Where it listens. However a test's sockets end, nothing is in flight or held after it."""
    url, admin = tight
    yield url
    programs.wait_until(lambda: not wire.in_flight(admin) and not body_bytes(admin), "nothing is held")


@pytest.fixture
def admin(tight: tuple[str, str]) -> str:
    return tight[1]


def body_bytes(admin: str) -> float:
    return series(admin, "dp_vllm_body_bytes")


def series(admin: str, name: str) -> float:
    text = wire.ask(admin, "GET", "/metrics").body.decode()
    return float(next(line for line in text.splitlines() if line.startswith(name + " ")).split()[1])


def upgraded(url: str, key: str = "a") -> wire.Line:
    line = wire.Line(url)
    headers = {**UPGRADE, "sec-websocket-key": "MDEyMzQ1Njc4OTAxMjM0NQ==", "authorization": f"Bearer {key}"}
    line.send(wire.request("GET", PATH, headers=headers))
    assert line.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    return line


def part(size: int, of: int = 900_000) -> bytes:
    """The beginning of a message's first frame, and not its end."""
    return b"\x02\xff" + of.to_bytes(8) + bytes(4) + bytes(size)


async def test_a_key_has_its_share_of_a_replicas_slots_and_all_websockets_have_half(limited: str, admin: str) -> None:
    bearers = {key: {"Authorization": f"Bearer {key}"} for key in "abc"}
    async with connected(limited, headers=bearers["a"]), connected(limited, headers=bearers["a"]):
        error = await refused(limited, headers=bearers["a"])
        assert error.status == 429 and error.headers is not None and error.headers["retry-after"]
        async with connected(limited, headers=bearers["b"]) as socket:
            await socket.send_str("hello")
            assert await socket.receive_str() == "hello"
            async with connected(limited, headers=bearers["c"]):
                assert series(admin, 'dp_vllm_replica_websockets{replica="0"}') == 4
                error = await refused(limited, headers=bearers["b"])
                assert error.status == 503 and error.headers is not None and error.headers["retry-after"]
    async with connected(limited, headers=bearers["a"]):
        pass


async def test_a_websocket_without_messages_is_closed_and_one_whose_client_is_gone_sooner(
    replica: Program, tmp_path: Path
) -> None:
    flags = ("--replica", replica.url, "--websocket-idle-seconds", "4")
    with programs.gateway(tmp_path, *flags) as gateway:
        async with connected(gateway.url, autoclose=False) as idle, connected(gateway.url, autoping=False) as gone:
            ends = asyncio.gather(last_words(idle), without_pongs(gone))
            assert list(await ends) == [(1001, "no message for 4 s"), (1001, "the client answers no ping")]
            await idle.close()


async def without_pongs(socket: aiohttp.ClientWebSocketResponse) -> tuple[int, str]:
    """The close frame's code and reason, if no ping is answered."""
    while (message := await socket.receive(timeout=programs.START_SECONDS)).type is WSMsgType.PING:
        continue
    return message.data, str(message.extra)


def test_unfinished_messages_count_as_held_and_a_key_has_its_share(limited: str, admin: str) -> None:
    with contextlib.closing(upgraded(limited)) as first, contextlib.closing(upgraded(limited, "b")) as second:
        first.send(part(700_000))
        programs.wait_until(lambda: body_bytes(admin) == 700_000, "it counts")
        second.send(part(200_000))
        programs.wait_until(lambda: body_bytes(admin) == 900_000, "it counts too")
        second.send(bytes(101_000))
        text = b"the gateway has no room for this message"
        second.read_until(b"\x88" + bytes((2 + len(text),)) + (1013).to_bytes(2) + text)
        programs.wait_until(lambda: body_bytes(admin) == 700_000, "what was refused is not held")
        body = b'{"prompt": "%b"}' % (b"x" * 1000)
        bearers = {key: {"content-type": "application/json", "authorization": f"Bearer {key}"} for key in "ab"}
        refused = wire.ask(limited, "POST", "/v1/completions", body, bearers["a"])
        assert (refused.status, refused.error["code"]) == (503, "gateway_memory")
        assert wire.ask(limited, "POST", "/v1/completions", body, bearers["b"]).status == 404, "the engine's answer"
        first.send(bytes(200_000), b"\x80\x80" + bytes(4))
        programs.wait_until(lambda: body_bytes(admin) == 0, "the message was passed on")


def test_a_client_that_never_reads_is_cut(limited: str, replica: Program) -> None:
    order = b"send 900000"
    before = replica.output().count("closed 1011")
    with contextlib.closing(upgraded(limited)) as line:
        for _ in range(20):
            line.send(b"\x81" + bytes((0x80 | len(order),)) + bytes(4) + order)
        programs.wait_until(lambda: replica.output().count("closed 1011") > before, "the engine's side ends")


def test_sockets_that_open_and_vanish_leave_nothing(limited: str, admin: str) -> None:
    for number in range(40):
        line = upgraded(limited, "ab"[number % 2])
        line.send(part(10_000))
        line.close()
        programs.wait_until(lambda: wire.in_flight(admin) < 2, "there is a slot")


def test_many_short_messages_leave_others_their_turn(url: str) -> None:
    """The gateway answers others while it passes on what came all at once."""
    short, most = b"\x82\x80" + bytes(4), 10_000
    with contextlib.closing(upgraded(url)) as line, wire.line(url) as other:
        line.send(short * most)
        echoed, answers = 0, 0
        while echoed < 2 * most:
            other.send(wire.request("GET", "/health"))
            assert other.answer().status == 200
            answers += 1
            if select.select([line.socket], [], [], 0)[0]:
                echoed += len(line.socket.recv(1 << 20))
        assert answers > 30
