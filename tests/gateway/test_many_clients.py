"""More clients than a process may have open files for, and more than one address may have."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import programs
import pytest
import scripted
import wire
from ports import free_port

from dp_vllm_gateway.asked import Asked
from dp_vllm_gateway.clients import Server
from dp_vllm_gateway.crowd import MOST_REFUSED, SPARE_FILES, Crowd, address_of
from dp_vllm_gateway.relay import Relay

FILES = SPARE_FILES + 40
"""That the gateway may have open: those it keeps for itself, and two for each of 20 clients."""


def test_a_client_too_many_is_told_to_come_again_and_the_others_are_served(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    flags = ["--host", "127.0.0.1", "--port", str(port), "--max-address-connections", "20", "--replica"]
    with scripted.engine() as engine:
        argv = ["prlimit", f"--nofile={FILES}", *programs.python("-m", "dp_vllm_gateway", *flags, engine.url)]
        with programs.running(argv, tmp_path / "log", url=url, ready=lambda: programs.answers(url + "/ready")):
            with contextlib.ExitStack() as stack:
                lines = [stack.enter_context(wire.line(url)) for _ in range(20)]
                assert [ask(line).status for line in lines] == [200] * 20
                refused = wire.complete(url)
                assert (refused.status, refused.error["code"]) == (503, "too_many_connections")
                assert int(refused.headers["retry-after"]) > 0
                assert [ask(line).status for line in lines] == [200] * 20, "those that are served stay so"
            programs.wait_until(lambda: wire.complete(url).status == 200, "there is room again")


def test_one_address_cannot_take_every_connection(tmp_path: Path) -> None:
    flags = ("--max-address-connections", "3")
    with scripted.engine() as engine, scripted.gateway(tmp_path, [engine], *flags) as gateway:
        programs.wait_until(lambda: wire.complete(gateway.url).status == 200, "those that looked have left")
        with contextlib.ExitStack() as stack:
            lines = [stack.enter_context(wire.line(gateway.url)) for _ in range(3)]
            assert [ask(line).status for line in lines] == [200] * 3
            refused = wire.complete(gateway.url)
            assert (refused.status, refused.error["code"]) == (429, "too_many_connections")
            assert int(refused.headers["retry-after"]) > 0
            port = int(gateway.url.rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.2", 0)) as other:
                other.sendall(wire.request("GET", "/health"))
                assert other.recv(65536).startswith(b"HTTP/1.1 200 ")
            assert [ask(line).status for line in lines] == [200] * 3
        programs.wait_until(lambda: wire.complete(gateway.url).status == 200, "there is room again")
        assert "127.0.0.1 has 3 connections; more get 429" in gateway.output()


class Connected(asyncio.BaseTransport):
    """A transport, as far as its client's address is known."""

    def __init__(self, peer: object) -> None:
        super().__init__({"peername": peer})


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (("10.0.0.1", 5), "10.0.0.1"),
        (("::ffff:10.0.0.1", 5, 0, 0), "10.0.0.1"),
        (("2001:db8:1:2:3:4:5:6", 5, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::/64"),
        ("", None),
        (None, None),
    ],
)
def test_an_address_is_one_host(peer: object, address: str | None) -> None:
    assert address_of(Connected(peer)) == address


def test_one_address_has_three_quarters_unless_it_is_set() -> None:
    for crowd, most in ((Crowd(8), 6), (Crowd(8, 2), 2), (Crowd(1), 1)):
        entered = [crowd.enter("10.0.0.1") is None for _ in range(most)]
        assert all(entered)
        assert crowd.enter(None) is None or most == 1, "a unix socket has no address"
        crowd.leave("10.0.0.1")
        assert crowd.enter("10.0.0.1") is None


async def test_those_who_are_told_that_they_are_too_many_are_bounded_too() -> None:
    server = Server(_never_called, idle_client_seconds=60.0, crowd=Crowd(1))
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    with contextlib.closing(listening):
        async with contextlib.AsyncExitStack() as stack, asyncio.timeout(20):
            clients = [await stack.enter_async_context(connected(port)) for _ in range(1 + MOST_REFUSED)]
            assert await answer(*await stack.enter_async_context(connected(port))) == b"", "more are not answered"
            assert (await answer(*clients[-1])).startswith(b"HTTP/1.1 503 ")
            again = await stack.enter_async_context(connected(port))
            assert (await answer(*again)).startswith(b"HTTP/1.1 503 "), "one of them has left"
        await server.shutdown(1.0)


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """All that comes; nothing if the connection is reset."""
    try:
        writer.write(wire.request("GET", "/"))
        return await reader.read()
    except ConnectionError:
        return b""


async def _never_called(asked: Asked, relay: Relay) -> None:
    raise NotImplementedError


def ask(line: wire.Line) -> wire.Answer:
    line.send(wire.request("POST", "/v1/completions", b'{"prompt": "x"}'))
    return line.answer("POST")


def test_the_gateway_takes_as_many_open_files_as_it_is_allowed(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with scripted.engine() as engine, scripted.gateway(tmp_path, [engine]) as program:
        soft, _ = resource.prlimit(program.pid, resource.RLIMIT_NOFILE)
        assert soft == hard
