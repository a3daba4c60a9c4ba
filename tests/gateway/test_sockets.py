"""Where the gateway listens when it runs alone."""

import socket

import pytest
from ports import free_port

from dp_vllm.errors import UserError
from dp_vllm_gateway import sockets


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        (None, {"127.0.0.1"}),
        ("::", {"127.0.0.1", "::1"}),
        ("::1", {"::1"}),
        ("127.0.0.1", {"127.0.0.1"}),
        ("localhost", {"127.0.0.1"}),
    ],
)
def test_a_host_is_listened_on_as_vllm_does(host: str | None, reached: set[str]) -> None:
    port = free_port()
    with sockets.tcp(host, port, "--port"):
        for address in ("127.0.0.1", "::1"):
            try:
                socket.create_connection((address, port)).close()
            except ConnectionRefusedError:
                assert address not in reached
            else:
                assert address in reached


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("no-such-host.invalid", r"--host: 'no-such-host.invalid' is no address of this machine"),
        ("2001:db8::1", r"--port: cannot listen on \[2001:db8::1\]:\d+: Cannot assign requested address"),
    ],
)
def test_a_host_that_is_not_of_this_machine_is_named(host: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        sockets.tcp(host, free_port(), "--port")
