"""A connection to a Kubernetes API server: log in, send a request, read an answer or a stream of lines.

The only file that imports `kubernetes`. It uses the library's login and its HTTP client, but not its generated models,
which cost 130 MB of memory: objects are the plain JSON that the API server speaks. It knows no kind of object.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import getproxies

import aiohttp
import msgspec
import yaml
from aiohttp.http_exceptions import HttpProcessingError
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.config.incluster_config import InClusterConfigLoader

from dp_vllm import __version__
from dp_vllm.errors import UserError

JSON: Final = "application/json"
APPLY: Final = "application/apply-patch+yaml"
"""Content type of a server-side apply."""
MERGE: Final = "application/merge-patch+json"

REQUEST_SECONDS: Final = 30.0
CONNECT_SECONDS: Final = 10.0

RENEW_SECONDS: Final = 60.0
"""How old a login may be: the token of a pod is replaced every hour."""

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_UNUSABLE: Final = (
    *(kubernetes_config.ConfigException, OSError, yaml.YAMLError),
    *(ValueError, TypeError, KeyError, AttributeError),  # what the library says of a kubeconfig with another shape
)

Object = dict[str, Any]
"""A Kubernetes object as its JSON."""


class Unreachable(Exception):
    """The API server gave no answer."""


class Silence(Unreachable):
    """A stream had nothing for so long that its connection may be dead."""


class ApiError(Exception):
    """The API server refused."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}" if reason else f"{status}: {message}")
        self.status = status
        self.reason = reason
        """In one word, as `AlreadyExists`; empty if what answered was no Kubernetes."""
        self.message = message

    @property
    def passes(self) -> bool:
        """Whether the API server may answer the same request soon: it is not well, or has too much to do."""
        return self.status >= 500 or self.status == 429


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to log in to the API server, for a library that makes its own connections."""

    server: str
    ca_path: str | None
    verify: bool
    authorization: str | None
    """`bearer TOKEN`, as it is now."""
    certificate_path: str | None
    key_path: str | None


class KubernetesApi:
    """One connection pool. Made by `connect`."""

    def __init__(self, client: ApiClient, namespace: str = "default") -> None:
        self._client = client
        self.namespace = namespace
        """The namespace of whoever logged in: the pod's own, or the one that kubectl would use."""

    async def credentials(self) -> Credentials:
        """What this connection logs in with; a token is renewed if it is old."""
        configuration = self._client.configuration
        return Credentials(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            verify=configuration.verify_ssl,
            authorization=await configuration.get_api_key_with_prefix("BearerToken", alias="authorization"),
            certificate_path=configuration.cert_file,
            key_path=configuration.key_file,
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = JSON,
        seconds: float = REQUEST_SECONDS,
    ) -> Object:
        """Send a request and return the object that answers it. Raises ApiError and Unreachable."""
        text = await self.text(method, path, query=query, body=body, content_type=content_type, seconds=seconds)
        try:
            answer = msgspec.json.decode(text)
        except ValueError as error:
            raise Unreachable(f"{method} {path}: what answered is no API server: {error}") from error
        return answer if isinstance(answer, dict) else {"value": answer}

    async def text(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = JSON,
        seconds: float = REQUEST_SECONDS,
    ) -> bytes:
        """As `request`, for an answer that is no JSON, as a pod's log."""
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        async with self._sent(method, path, query, body, content_type, timeout) as response:
            return await response.read()

    async def lines(
        self, path: str, query: Mapping[str, str], *, silence_seconds: float
    ) -> AsyncGenerator[bytes, None]:
        """GET a stream, a watch for example, line by line. Raises Silence after so long without a byte."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silence_seconds)
        async with self._sent("GET", path, query, None, JSON, timeout) as response:
            try:
                async for line in response.content:
                    if line.strip():
                        yield line
            except TimeoutError as error:
                raise Silence(f"GET {path}: nothing for {silence_seconds:g} s") from error

    @contextlib.asynccontextmanager
    async def _sent(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: object,
        content_type: str,
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        target = f"{path}?{urlencode(query)}" if query else path
        _, url, headers, *_ = await self._client.param_serialize(
            method, target, header_params={"Accept": JSON, "Content-Type": content_type}, auth_settings=["BearerToken"]
        )
        try:
            answer = await self._client.rest_client.request(method, url, headers, body, _request_timeout=timeout)
            async with answer.response as response:
                if response.status >= 400:
                    raise _refusal(response.status, await response.read())
                yield response
        except (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError) as error:
            raise Unreachable(f"{method} {path}: {str(error) or type(error).__name__}") from error


def _refusal(status: int, body: bytes) -> ApiError:
    try:
        said = msgspec.json.decode(body)
        return ApiError(status, said.get("reason", ""), said.get("message", ""))
    except (msgspec.DecodeError, AttributeError):
        return ApiError(status, "", body[:300].decode("utf-8", "replace").strip())


@contextlib.asynccontextmanager
async def connect(
    *, service_account: Path = SERVICE_ACCOUNT, renew_seconds: float = RENEW_SECONDS
) -> AsyncIterator[KubernetesApi]:
    """Log in as kubectl would (KUBECONFIG, ~/.kube/config), or as the pod that this process runs in.

    Tokens are read again as they age. Raises UserError if there is no way to log in.
    """
    configuration = Configuration()
    configuration.connection_pool_maxsize = 100
    configuration.retries = None
    # Only for a proxy: with it ~/.netrc is read for each request, in another thread.
    configuration.client_session_kwargs = {"trust_env": bool(getproxies())}
    login = _Login(service_account, renew_seconds)
    try:
        await login.load(configuration)
        client = ApiClient(configuration)  # reads the certificates
    except _UNUSABLE as error:
        raise UserError(f"no Kubernetes to log in to, {login.where}: {error}") from error
    configuration.refresh_api_key_hook = login.renew  # type: ignore[assignment]
    client.user_agent = f"dp-vllm/{__version__}"
    try:
        yield KubernetesApi(client, login.namespace)
    finally:
        await client.close()
        await asyncio.sleep(0)  # the TLS connections' last words


class _Login:
    """Fills in how the client logs in, and does so again when that is old."""

    def __init__(self, service_account: Path, renew_seconds: float) -> None:
        self._service_account = service_account
        self._in_cluster = in_cluster(service_account)
        self._renew_seconds = renew_seconds
        self._loaded_at = 0.0
        self._kubeconfig: Any = None
        """The library's loader: it knows until when a plugin's token is good."""
        self.namespace = "default"

    @property
    def where(self) -> str:
        """Where the login is read."""
        if self._in_cluster:
            return f"as the pod's service account ({self._service_account})"
        return f"with the kubeconfig {os.environ.get('KUBECONFIG', '~/.kube/config')} (KUBECONFIG names another)"

    async def load(self, configuration: Configuration) -> None:
        """Raises what the library does, and what files and certificates do."""
        self._loaded_at = time.monotonic()
        if self._in_cluster:
            token, authority = self._service_account / "token", self._service_account / "ca.crt"
            InClusterConfigLoader(token, authority, try_refresh_token=False).load_and_set(configuration)
            self.namespace = own_namespace(self._service_account) or self.namespace
        elif self._kubeconfig is None:
            told = os.environ.get("KUBECONFIG")  # the library reads it once, when it is imported
            if not _any_is_there(told or "~/.kube/config"):
                raise kubernetes_config.ConfigException("there is no such file")
            self._kubeconfig = await kubernetes_config.load_kube_config(told, client_configuration=configuration)
            self.namespace = self._kubeconfig.current_context["context"].get("namespace") or self.namespace
        else:
            await self._kubeconfig.load_and_set(configuration)

    async def renew(self, configuration: Configuration) -> None:
        """Called before each request. What cannot be read anew stays as it is: the API server judges it."""
        if time.monotonic() - self._loaded_at >= self._renew_seconds:
            with contextlib.suppress(*_UNUSABLE):
                await self.load(configuration)


def _any_is_there(files: str) -> bool:
    """Of several, as KUBECONFIG names them."""
    return any(Path(file).expanduser().exists() for file in files.split(os.pathsep) if file)


def in_cluster(service_account: Path = SERVICE_ACCOUNT) -> bool:
    """Whether this process runs in a pod that may speak to the API server."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and (service_account / "token").exists()


def own_namespace(service_account: Path = SERVICE_ACCOUNT) -> str:
    """The namespace of the pod that this process runs in; empty elsewhere."""
    try:
        return (service_account / "namespace").read_text().strip()
    except OSError:
        return ""
