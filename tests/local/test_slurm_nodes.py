"""How replicas are divided over nodes, how nodes find each other, and the doors before their engines."""

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from programs import python, wait_until

from dp_vllm.endpoints import Endpoint, State
from dp_vllm.errors import UserError
from dp_vllm.local.crew import Outlook, Sight, sight_of
from dp_vllm.local.probe import GatewayState, ReplicaState
from dp_vllm.local.slurm import meeting
from dp_vllm.local.slurm.allocation import Allocation
from dp_vllm.local.slurm.door import shows
from dp_vllm.local.slurm.head import Head, gathered
from dp_vllm.local.slurm.member import Member, joined
from dp_vllm.local.slurm.messages import Hello, Line
from dp_vllm.local.slurm.spread import Room, divide

FIRST = Allocation("1", "n1", "0", ("n1", "n2"))
THREE = Allocation("1", "n1", "0", ("n1", "n2", "n3"))
OTHER = Allocation("1", "n2", "0", ("n1", "n2"), rank=1)


def rooms(*fits: int | None) -> Sequence[Room]:
    return [Room(f"n{number}", fit, fit) for number, fit in enumerate(fits, 1)]


@pytest.mark.parametrize(
    ("copies", "fits", "counts"),
    [
        (8, (4, 4), (4, 4)),
        (5, (4, 4), (3, 2)),
        (6, (4, 2), (4, 2)),
        (5, (1, 4), (1, 4)),
        (3, (None, None), (2, 1)),
        (2, (1, 1), (1, 1)),
    ],
)
def test_replicas_are_divided_as_evenly_as_the_gpus_allow(
    copies: int, fits: tuple[int | None, ...], counts: tuple[int, ...]
) -> None:
    assert divide(copies, rooms(*fits)) == counts


@pytest.mark.parametrize(
    ("copies", "fits", "said"),
    [
        (7, (4, 2), r"-dp 7 does not fit into the job: there is room on n1 for 4 \(4 GPUs\), on n2 for 2 \(2 GPUs\)"),
        (1, (4, 4), "-dp 1 leaves n2 without a replica; -dp 8 uses all GPUs of the job"),
        (4, (4, 0), "-dp 4 leaves n2 without a replica; give each node GPUs, or give srun fewer --nodes"),
    ],
)
def test_what_does_not_fit_is_said_with_the_nodes_names(copies: int, fits: tuple[int, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        divide(copies, rooms(*fits))


def test_what_a_gateway_shows_of_replicas_that_end() -> None:
    state = GatewayState(3, 2, {"0": ReplicaState(0, True), "1": ReplicaState(2, False), "2": ReplicaState(0, False)})
    found = sight_of(state, {"1": 2, "2": 3, "3": 4}, running=True)
    assert found == Sight(frozenset("0"), frozenset("2"), 2), "1 has requests, and 3 is news to it"
    assert sight_of(None, {"1": 2}, running=True) is None
    assert sight_of(None, {"1": 2}, running=False) == Sight(done=frozenset("1"))


@asynccontextmanager
async def met(logs: Path) -> AsyncIterator[tuple[Head, Member]]:
    """A first node with 3 replicas and another one with 2."""
    async with AsyncExitStack() as stack:
        arriving = asyncio.create_task(stack.enter_async_context(joined(OTHER, logs, Room("n2", 2, 2), 20)))
        head = await stack.enter_async_context(gathered(FIRST, logs, 20))
        assert head.divide(5, Room("n1", 4, 4), 8000) == 3
        yield head, await arriving


async def until(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what)


async def test_nodes_tell_each_other_what_they_need_to_know(tmp_path: Path) -> None:
    async with met(tmp_path) as (head, member):
        assert (member.share.first, member.share.count, member.share.port) == (3, 2, 8000)
        assert member.secret == head.secret
        assert meeting.read(tmp_path) is None
        member.doors = {"3": "10.0.0.2:1", "4": "10.0.0.2:2"}
        own = [Endpoint("3", "unix:/x", "1", State.READY), Endpoint("4", "unix:/y", "1", State.STARTING)]
        member.report(own, Outlook(was_ready=True, given_up=False))
        await until(lambda: len(head.elsewhere) == 2, "the report is there")
        assert [each.address for each in head.elsewhere] == ["10.0.0.2:1", "10.0.0.2:2"]
        assert head.outlook == Outlook(was_ready=True, given_up=False)
        head.show(Sight(uses=frozenset("3")))
        await until(lambda: member.sight == Sight(uses=frozenset("3")), "what the gateway does is there")
        assert member.order is None
        head.end(7)
        await until(lambda: member.order == 7, "the order is there")
        assert not member.is_lost


async def test_a_node_that_ends_leaves_replicas_that_are_down(tmp_path: Path) -> None:
    async with met(tmp_path) as (head, member):
        member.doors = {"3": "10.0.0.2:1"}
        member.report([Endpoint("3", "unix:/x", "1", State.READY)], Outlook(was_ready=True, given_up=False))
        await until(lambda: len(head.elsewhere) == 1, "the report is there")
        await member.leave()
        await until(lambda: head.elsewhere[0].state is State.DOWN, "the end is seen")
        assert head.elsewhere[0].message == "replica 3 stays down: its node n2 is gone"
        assert head.outlook == Outlook(was_ready=True, given_up=True)


async def test_a_first_node_that_ends_without_a_word_is_an_order_to_end(tmp_path: Path) -> None:
    async with met(tmp_path) as (head, member):
        member.doors = {"3": "10.0.0.2:1"}
        await head.leave()
        await until(lambda: member.order == 0, "the end is seen")
        assert member.is_lost and member.sight == Sight(done=frozenset("3"))


@pytest.mark.parametrize("knows", [False, True], ids=["does not know the secret", "leaves before all are there"])
async def test_whoever_is_no_node_of_the_run_is_not_counted(tmp_path: Path, knows: bool) -> None:
    async def wait_in_vain() -> None:
        async with gathered(THREE, tmp_path, 2):
            raise AssertionError("it was taken for a node")

    first = asyncio.create_task(wait_in_vain())
    await until(lambda: meeting.read(tmp_path) is not None, "the first node is there")
    assert (tmp_path / meeting.NAME).stat().st_mode & 0o777 == 0o600
    found = meeting.read(tmp_path)
    assert found is not None
    stranger = Line(*await asyncio.open_connection("127.0.0.1", found.port))
    stranger.send(Hello(found.secret if knows else "wrong", "n2", 4, 4))
    assert knows or await stranger.receive() is None
    await stranger.close()
    with pytest.raises(UserError, match=r"n2, n3 did not come within 2 s \(--node-timeout\).*--log-dir"):
        await first


@pytest.mark.parametrize(
    ("head", "shown"),
    [
        (b"GET / HTTP/1.1\r\nAuthorization: Bearer right", True),
        (b"GET / HTTP/1.1\r\nhost: x\r\nauthorization:Bearer right ", True),
        (b"GET / HTTP/1.1\r\nAuthorization: Bearer wrong\r\nAuthorization: Bearer right", False),
        (b"GET / HTTP/1.1\r\nAuthorization: Bearer righ", False),
        (b"GET /authorization: HTTP/1.1\r\nx-api-key: right", False),
        (b"Authorization: Bearer right", False),
        (b"", False),
    ],
)
def test_a_door_wants_the_secret_in_the_head_of_the_first_request(head: bytes, shown: bool) -> None:
    assert shows(head, b"Bearer right") == shown


def test_a_door_passes_bytes_on_as_they_are_once_the_secret_was_shown(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("right\n")
    with socket.create_server(("127.0.0.1", 0)) as door, socket.socket(socket.AF_UNIX) as engine:
        door.set_inheritable(True)
        argv = python("-m", "dp_vllm.local.slurm.door", "--secret-file", str(tmp_path / "secret"))
        argv += ["--door", f"{door.fileno()}=unix:{tmp_path}/engine"]
        with subprocess.Popen(argv, pass_fds=[door.fileno()]) as program:
            request = b"GET /health HTTP/1.1\r\nAuthorization: Bearer right\r\n\r\nand more"
            at = door.getsockname()
            with socket.create_connection(at, 20) as client:
                client.sendall(request)
                assert client.recv(100).startswith(b"HTTP/1.1 503")
            engine.bind(str(tmp_path / "engine"))
            engine.listen()
            engine.settimeout(20)
            with socket.create_connection(at, 20) as client:
                client.sendall(request[:30])
                client.sendall(request[30:])
                served, _ = engine.accept()
                with served:
                    assert served.recv(1000) == request
                    client.sendall(b"no head, no key")
                    assert served.recv(1000) == b"no head, no key"
                    served.sendall(b"not even HTTP")
                    assert client.recv(1000) == b"not even HTTP"
                assert client.recv(1000) == b"", "the engine's end is the connection's"
            with socket.create_connection(at, 20) as client, suppress(ConnectionError):
                client.sendall(request.replace(b"right", b"wrong"))
                assert client.recv(100).startswith(b"HTTP/1.1 401")
            program.terminate()
