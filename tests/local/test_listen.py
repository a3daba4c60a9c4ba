"""The endpoint's sockets: all interfaces by default, inheritable; a taken address is an error that names its holder."""

import os
import socket
from pathlib import Path

import pytest
from ports import free_port

from dp_vllm.errors import UserError
from dp_vllm.local.deployment import Listen
from dp_vllm.local.listen import PORTS_TRIED, at, listening


def test_by_default_all_interfaces_are_listened_on() -> None:
    port = free_port()
    with listening(Listen(None, port)) as sockets:
        assert "0.0.0.0" in {each.getsockname()[0] for each in sockets}
        assert all(os.get_inheritable(each.fileno()) for each in sockets)
        socket.create_connection(("127.0.0.1", port)).close()
    assert all(each.fileno() == -1 for each in sockets)


@pytest.mark.parametrize(
    ("host", "reached", "url"),
    [
        ("::", ["127.0.0.1", "::1"], "localhost"),
        ("0.0.0.0", ["127.0.0.1"], "127.0.0.1"),
        ("::1", ["::1"], "[::1]"),
        ("localhost", ["localhost"], "localhost"),
    ],
)
def test_a_host_is_listened_on_as_vllm_does_and_its_url_works(host: str, reached: list[str], url: str) -> None:
    listen = Listen(host, free_port())
    assert listen.url == f"http://{url}:{listen.port}"
    with listening(listen):
        for address in (*reached, url.strip("[]")):
            socket.create_connection((address, listen.port)).close()
        for address in {"127.0.0.1", "::1"} - {*reached, url} if url != "localhost" else ():
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((address, listen.port))


def test_all_of_both_families_is_taken_if_one_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"--port: {port} is taken by process {os.getpid()}"):
            listening(Listen("::", port)).__enter__()


def test_a_given_host_is_the_only_one_listened_on() -> None:
    with listening(Listen("127.0.0.1", free_port())) as sockets:
        assert [each.getsockname()[0] for each in sockets] == ["127.0.0.1"]


@pytest.mark.parametrize("reuse_port", [False, True], ids=["plain", "with SO_REUSEPORT"])
def test_a_taken_port_is_an_error_that_names_its_holder(reuse_port: bool) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"--port: {port} is taken by process {os.getpid()} \(.*python"):
            listening(Listen(None, port)).__enter__()


def test_the_next_free_port_is_taken_where_that_may_be() -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        wanted = Listen(None, port, or_next=True)
        with listening(wanted) as sockets:
            found = at(wanted, sockets)
            assert port < found.port < port + PORTS_TRIED
            assert {each.getsockname()[1] for each in sockets} == {found.port}, "of both families"


def test_a_port_can_be_listened_on_again_at_once() -> None:
    port = free_port()
    for _ in range(2):
        with listening(Listen("127.0.0.1", port)) as (listener,):
            client = socket.create_connection(("127.0.0.1", port))
            served, _ = listener.accept()
            served.close()  # the first to close: its side stays in TIME_WAIT
            client.close()


def test_a_host_that_is_not_of_this_machine_is_refused() -> None:
    with pytest.raises(UserError, match=r"--host: 'no-such-host\.invalid' is no address of this machine"):
        listening(Listen("no-such-host.invalid", free_port())).__enter__()
    with pytest.raises(UserError, match=r"--host: '203.0.113.7' is no address of this machine"):
        listening(Listen("203.0.113.7", free_port())).__enter__()


def test_a_unix_socket_is_removed_at_the_end_and_a_stale_one_replaced(tmp_path: Path) -> None:
    path = tmp_path / "endpoint.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with listening(Listen(None, 0, uds=path)), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert not path.exists()


def test_a_taken_unix_socket_is_an_error_that_names_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "endpoint.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(UserError, match=rf"--uds: {path} is taken by process {os.getpid()}"):
            listening(Listen(None, 0, uds=path)).__enter__()
    assert path.exists()


def test_a_file_is_not_replaced_by_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(UserError, match="exists and is no socket"):
        listening(Listen(None, 0, uds=path)).__enter__()
    assert path.read_text() == "data"
