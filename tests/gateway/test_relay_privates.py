"""What is used of aiohttp that it does not publish: that it is there, and does what relies on it."""

import ast
import asyncio
import contextlib
import re
import tomllib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest
from aiohttp.web_protocol import RequestHandler

from dp_vllm_gateway import clients, relay, websocket_session
from dp_vllm_gateway.asked import Asked
from dp_vllm_gateway.crowd import Crowd
from dp_vllm_gateway.relay import Relay

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


@asynccontextmanager
async def served(handler: clients.Handler, *, idle_client_seconds: float = 60.0) -> AsyncIterator[int]:
    """A server of ours on a port, for one test."""
    server = clients.Server(handler, idle_client_seconds=idle_client_seconds, crowd=Crowd(100))
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        await server.shutdown(1.0)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def talk(port: int, *pieces: bytes) -> bytes:
    """Send, and read all until the server closes the connection."""
    async with connected(port) as (reader, writer):
        writer.writelines(pieces)
        return await reader.read()


# that it is there, and that the docstrings say so


def source_of(module: ModuleType) -> ast.Module:
    """Its source in the repository: a compiled module knows neither that nor its docstring."""
    return ast.parse((Path(__file__).parents[2] / "gateway" / (module.__name__.replace(".", "/") + ".py")).read_text())


def private_names(tree: ast.Module) -> set[str]:
    """Attributes with an underscore that a module's code uses and does not define itself."""
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    stored = {
        target.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
        for statement in node.body
        for target in ast.walk(statement)
        if isinstance(target, ast.Attribute) and isinstance(target.ctx, ast.Store)
    }
    return {name for name in used - defined - stored if name.startswith("_") and not name.startswith("__")}


@pytest.mark.parametrize("module", [relay, clients, websocket_session])
async def test_every_private_that_is_used_is_named_in_the_docstring_and_there(module: ModuleType) -> None:
    async def look(asked: Asked, relayed: Relay) -> None:
        there.update(dir(relayed._client))
        relayed.whole(200, b"", b"")

    there: set[str] = set()
    async with served(look) as port:
        await talk(port, GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
    source = source_of(module)
    names = private_names(source)
    assert names, "there is something to look at"
    assert names <= there
    assert names <= set(re.findall(r"\w+", ast.get_docstring(source) or ""))


def test_aiohttp_is_held_to_one_minor_version() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    (pinned,) = [line for line in project["project"]["dependencies"] if line.startswith("aiohttp")]
    major, minor, _ = aiohttp.__version__.split(".")
    assert pinned.startswith(f"aiohttp>={major}.{minor}.")
    assert pinned.endswith(f",<{major}.{int(minor) + 1}")


async def test_their_types_are_those_that_are_relied_on() -> None:
    seen: dict[str, Any] = {}

    async def look(asked: Asked, relayed: Relay) -> None:
        protocol = relayed._client
        seen["protocol"] = isinstance(protocol, RequestHandler)
        seen["transport"] = protocol.transport is not None
        seen["paused"] = (protocol._paused, protocol._reading_paused, protocol._buffer_paused)
        seen["messages"] = (type(protocol._messages), protocol._waiter)
        seen["task"] = protocol._task_handler is asyncio.current_task()
        relayed.whole(200, b"", b"")

    async with served(look) as port:
        await talk(port, GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
    assert seen == {
        "protocol": True,
        "transport": True,
        "paused": (False, False, False),
        "messages": (deque, None),
        "task": True,
    }


# that it does what relies on it


async def test_an_answer_that_was_written_is_not_written_again() -> None:
    async def answer(asked: Asked, relayed: Relay) -> None:
        if asked.target == "/whole":
            relayed.whole(200, b"x-a: b\r\n", b"hello")
        else:
            relayed.head(200, b"")
            relayed.body(b"hel")
            relayed.end(b"lo")

    async with served(answer) as port:
        said = await talk(
            port,
            GET.replace(b"/", b"/whole", 1),
            GET.replace(b"/", b"/pieces", 1),
            b"GET /whole HTTP/1.0\r\n\r\n",
        )
    assert said == (
        b"HTTP/1.1 200 OK\r\nx-a: b\r\ncontent-length: 5\r\n\r\nhello"
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nx-a: b\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"
    )


@pytest.mark.parametrize("error", [RuntimeError("ours"), TimeoutError()])
async def test_an_error_within_a_begun_answer_cuts_it_and_adds_nothing(error: Exception) -> None:
    async def fail(asked: Asked, relayed: Relay) -> None:
        relayed.head(200, b"")
        relayed.body(b"half")
        raise error

    async with served(fail) as port:
        assert await talk(port, GET) == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"


async def test_an_error_before_the_answer_is_told_in_json_and_ends_the_connection() -> None:
    async def fail(asked: Asked, relayed: Relay) -> None:
        raise RuntimeError("ours")

    async with served(fail) as port:
        said = await talk(port, GET, GET)
    assert said.count(b"HTTP/1.1 500 ") == said.count(b"HTTP/1.1") == 1
    assert b"connection: close" in said.lower() and b'"type":"server_error"' in said and b"ours" not in said


async def test_a_request_that_is_no_http_is_told_in_json() -> None:
    async def never(asked: Asked, relayed: Relay) -> None:
        raise AssertionError

    async with served(never) as port:
        said = await talk(port, b"hello?\r\n\r\n")
    assert b" 400 " in said.splitlines()[0] and b'"type":"invalid_request_error"' in said


async def test_the_clients_departure_cancels_its_handler() -> None:
    began, left = asyncio.Event(), asyncio.Event()

    async def wait(asked: Asked, relayed: Relay) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            left.set()
            raise
        raise AssertionError

    async with served(wait) as port, asyncio.timeout(10):
        async with connected(port) as (_, writer):
            writer.write(GET)
            await began.wait()
        await left.wait()


async def test_a_client_that_takes_nothing_pauses_the_relay_until_it_does_or_leaves() -> None:
    paused, drained = asyncio.Event(), asyncio.Event()

    async def much(asked: Asked, relayed: Relay) -> None:
        relayed.head(200, b"")
        while not relayed.paused:
            relayed.body(b"x" * 65536)
        paused.set()
        try:
            await relayed.drained()
        finally:
            drained.set()
        assert not relayed.paused
        relayed.end()

    async with served(much) as port, asyncio.timeout(20):
        async with connected(port) as (reader, writer):
            writer.write(GET)
            await paused.wait()
            assert not drained.is_set()
            while not drained.is_set():
                assert await reader.read(1 << 20)
        paused.clear()
        drained.clear()
        async with connected(port) as (_, writer):
            writer.write(GET)
            await paused.wait()
        await drained.wait()


async def test_a_connection_without_a_request_is_closed_but_not_one_with_a_slow_answer() -> None:
    async def slow(asked: Asked, relayed: Relay) -> None:
        await asyncio.sleep(0.3)
        relayed.whole(200, b"", b"there")

    async with served(slow, idle_client_seconds=0.1) as port, asyncio.timeout(10):
        assert await talk(port) == b""
        for sent in (b"GET / HT", GET[:-2]):
            assert (await talk(port, sent)).startswith(b"HTTP/1.1 408 "), "half a head"
        async with connected(port) as (reader, writer):
            writer.write(b"GET /")
            answer = asyncio.ensure_future(reader.read())
            while not (await asyncio.wait([answer], timeout=0.01))[0]:
                writer.write(b"a")
            assert answer.result().startswith(b"HTTP/1.1 408 "), "a head that never ends"
        assert (await talk(port, GET)).endswith(b"there")


async def test_very_many_requests_in_one_piece_are_all_answered_and_the_reading_is_bounded() -> None:
    waiting: list[int] = []
    number = 2000

    async def count(asked: Asked, relayed: Relay) -> None:
        waiting.append(len(relayed._client._messages))
        await asyncio.sleep(0)
        relayed.whole(200, b"", b"")

    async with served(count) as port, asyncio.timeout(20):
        said = await talk(port, *[GET] * number, b"GET / HTTP/1.0\r\n\r\n")
    assert said.count(b"HTTP/1.1 200 OK") == number + 1
    assert max(waiting) < 100, "they wait in the socket, not in memory"


async def test_a_client_that_reads_no_answers_is_sent_no_more_of_them() -> None:
    number, served_now = 400, 0

    async def large(asked: Asked, relayed: Relay) -> None:
        nonlocal served_now
        if asked.target == "/":
            served_now += 1
        relayed.whole(200, b"", bytes(1 << 18))

    async with served(large) as port, asyncio.timeout(20), connected(port) as (reader, writer):
        writer.writelines([GET] * number)
        for _ in range(20):
            assert (await talk(port, b"GET /other HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert served_now < number / 2, "the rest waits in the socket"
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert (await reader.read()).count(b"HTTP/1.1 200 OK") == number + 1
