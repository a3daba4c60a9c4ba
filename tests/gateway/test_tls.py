"""TLS on the endpoint. The certificates are made with the `openssl` command."""

import socket
import ssl
import subprocess
import urllib.request
from contextlib import AbstractContextManager
from pathlib import Path

import programs
import pytest
import scripted
from ports import free_port
from scripted import Engine


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key and its certificate, for 127.0.0.1."""
    directory = tmp_path_factory.mktemp("tls")
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*request, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return key, certificate


def healthy(url: str, context: ssl.SSLContext) -> bool:
    try:
        with urllib.request.urlopen(url + "/health", timeout=5, context=context) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def gateway(
    directory: Path, engine: Engine, url: str, context: ssl.SSLContext, *flags: str
) -> AbstractContextManager[programs.Program]:
    host, _, port = url.removeprefix("https://").partition(":")
    argv = programs.python("-m", "dp_vllm_gateway", "--replica", engine.url, "--host", host, "--port", port, *flags)
    return programs.running(argv, directory / "gateway.log", url=url, ready=lambda: healthy(url, context))


def test_clients_may_trust_the_certificate_and_must_speak_tls(pair: tuple[Path, Path], tmp_path: Path) -> None:
    key, certificate = pair
    url = f"https://127.0.0.1:{free_port()}"
    context = ssl.create_default_context(cafile=certificate)
    flags = ("--ssl-keyfile", str(key), "--ssl-certfile", str(certificate))
    with scripted.engine() as engine, gateway(tmp_path, engine, url, context, *flags):
        request = urllib.request.Request(url + "/v1/completions", b"{}", {"content-type": "application/json"})
        with urllib.request.urlopen(request, context=context) as response:
            assert response.status == 200
        assert not healthy(url, ssl.create_default_context()), "it is trusted by nobody else"
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"HTTP/1.1" not in plain.recv(1000)


def test_clients_may_have_to_show_a_certificate_of_their_own(pair: tuple[Path, Path], tmp_path: Path) -> None:
    key, certificate = pair
    url = f"https://127.0.0.1:{free_port()}"
    known = ssl.create_default_context(cafile=certificate)
    known.load_cert_chain(certificate, key)
    ours = ("--ssl-keyfile", str(key), "--ssl-certfile", str(certificate))
    theirs = ("--ssl-ca-certs", str(certificate), "--ssl-cert-reqs", "2")
    with scripted.engine() as engine, gateway(tmp_path, engine, url, known, *ours, *theirs):
        assert not healthy(url, ssl.create_default_context(cafile=certificate))


def test_what_tls_cannot_be_served_with_is_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    key, certificate = map(str, pair)
    for flags, told in (
        (("--ssl-keyfile", key), "--ssl-certfile"),
        (("--ssl-certfile", "/nowhere/certificate.pem"), "/nowhere/certificate.pem"),
        (("--ssl-certfile", certificate), certificate),
        (("--ssl-certfile", certificate, "--ssl-keyfile", key, "--ssl-ciphers", "none"), "--ssl-ciphers none"),
    ):
        argv = programs.python("-m", "dp_vllm_gateway", "--replica", "127.0.0.1:1", *flags)
        with programs.running([*argv, "--port", str(free_port())], tmp_path / "log") as program:
            assert program.wait() == 2
            assert told in program.output()
            assert "Traceback" not in program.output()
