"""Docker's health check asks where the container's program listens, in every way to say that."""

import contextlib
import runpy
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

HEALTH: Final[dict[str, Any]] = runpy.run_path(str(Path(__file__).parents[2] / "docker" / "health.py"))
SERVE: Final = ("/opt/dp-vllm/bin/python", "-I", "-m", "dp_vllm", "serve", "org/model", "-dp", "2")


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ((), ("127.0.0.1", 8000)),
        (("--port", "9000"), ("127.0.0.1", 9000)),
        (("--port=9000", "--por", "9001"), ("127.0.0.1", 9001)),
        (("--host", "0.0.0.0"), ("127.0.0.1", 8000)),
        (("--host", "::", "--port", "9000"), ("localhost", 9000)),
        (("--host=::1",), ("::1", 8000)),
        (("--host", "[::1]"), ("::1", 8000)),
        (("--host", "10.1.2.3"), ("10.1.2.3", 8000)),
        (("--uds", "/run/s", "--port", "9000"), "/run/s"),
        (("--api-key", "--port"), ("127.0.0.1", 8000)),
        (("--", "--port", "9000"), ("127.0.0.1", 9000)),  # behind `docker run --init`
    ],
)
def test_it_knows_where(words: tuple[str, ...], where: object) -> None:
    assert HEALTH["place"]((*SERVE, *words)) == where


def test_what_is_typed_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text("port: 9000\nhost: '::1'\nenforce-eager: true\n")
    words = (*SERVE, "--config", str(tmp_path / "serve.yaml"))

    assert HEALTH["place"](words) == ("::1", 9000)
    assert HEALTH["place"]((*words, "--port", "9001")) == ("::1", 9001)


@contextlib.contextmanager
def answering(listener: socket.socket) -> Iterator[None]:
    """One connection is answered with 204."""
    listener.settimeout(10)

    def answer() -> None:
        with listener, listener.accept()[0] as client:
            client.recv(4096)
            client.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
def test_it_asks_an_address(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::")
    with answering(listener):
        where = HEALTH["place"]((*SERVE, "--host", host, "--port", str(listener.getsockname()[1])))
        assert HEALTH["status"](where, "/health", tls=False) == 204


def test_it_asks_a_socket(short_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(short_path / "s"))
    listener.listen()
    with answering(listener):
        where = HEALTH["place"]((*SERVE, "--uds", str(short_path / "s")))
        assert HEALTH["status"](where, "/health", tls=False) == 204
