"""How the programs log in to a real API server: as a service account, whose token is replaced while they run."""

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import programs
import pytest
import wire
import yaml
from cluster.fixtures import Kubectl
from cluster.given import AnyCluster
from ports import free_port
from replica_pods import labels

from dp_vllm import kubernetes_api
from dp_vllm.errors import UserError
from dp_vllm.kubernetes_api import ApiError

ROLE: Any = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": "gateway"},
    "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}],
}


@pytest.fixture
def token(kubectl: Kubectl) -> str:
    """Of the service account `gateway`, which has no right yet."""
    kubectl("create", "serviceaccount", "gateway")
    return kubectl("create", "token", "gateway").strip()


@pytest.fixture
def cluster_info(control_plane: AnyCluster) -> tuple[str, str]:
    """The API server's URL, and its certificate authority."""
    config = yaml.safe_load(control_plane.kubectl("config", "view", "--raw", "--flatten"))
    return config["clusters"][0]["cluster"]["server"], config["clusters"][0]["cluster"]["certificate-authority-data"]


def allow(kubectl: Kubectl) -> None:
    kubectl("create", "--filename=-", stdin=json.dumps(ROLE))
    account = f"{kubectl('get', 'serviceaccount', 'gateway', '--output=jsonpath={.metadata.namespace}')}:gateway"
    kubectl("create", "rolebinding", "gateway", "--role=gateway", f"--serviceaccount={account}")


def service_account(
    directory: Path, namespace: str, token: str, cluster_info: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """What a pod finds of its service account."""
    server, authority = cluster_info
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(urlsplit(server).hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(urlsplit(server).port))
    monkeypatch.setenv("KUBECONFIG", str(directory / "none"))
    folder = directory / "serviceaccount"
    folder.mkdir()
    (folder / "ca.crt").write_bytes(base64.b64decode(authority))
    (folder / "namespace").write_text(namespace)
    (folder / "token").write_text(token)
    return folder


def test_listing_and_watching_pods_is_all_that_a_gateway_may(
    kubectl: Kubectl,
    namespace: str,
    token: str,
    cluster_info: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, authority = cluster_info
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": "x", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x", "namespace": namespace}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = programs.python("-m", "dp_vllm_gateway", "--port", str(port), "--kubernetes-model", "m")
    with programs.running(argv, tmp_path / "log", ready=lambda: programs.answers(url + "/ready", 503)):
        programs.wait_until(
            lambda: "cannot list resource" in wire.ask(url, "GET", "/ready").error["message"], "the refusal is told"
        )
        allow(kubectl)
        programs.wait_until(lambda: programs.answers(url + "/ready"), "it was allowed to list")
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "m-1-0", "labels": labels("m")},
            "spec": {"containers": [{"name": "engine", "image": "none"}]},
        }
        kubectl("create", "--filename=-", stdin=json.dumps(pod))
        programs.wait_until(lambda: "m-1-0" in wire.complete(url).error["message"], "it may watch too")


async def test_a_token_that_was_replaced_is_read_again(
    kubectl: Kubectl,
    namespace: str,
    token: str,
    cluster_info: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allow(kubectl)
    account = service_account(tmp_path, namespace, "expired", cluster_info, monkeypatch)
    async with kubernetes_api.connect(service_account=account, renew_seconds=0) as api:
        assert api.namespace == namespace
        path = f"/api/v1/namespaces/{namespace}/pods"
        with pytest.raises(ApiError) as refused:
            await api.request("GET", path)
        assert refused.value.status == 401
        (account / "token").write_text(token)
        assert (await api.request("GET", path))["kind"] == "PodList"
        for lose in (lambda file: file.write_text(""), Path.unlink):
            lose(account / "token")
            assert (await api.request("GET", path))["kind"] == "PodList", "the last token is good until it expires"
    with pytest.raises(UserError, match="no Kubernetes to log in to"):
        async with kubernetes_api.connect(service_account=account):
            pass


async def test_a_token_is_good_for_a_while(
    kubectl: Kubectl,
    namespace: str,
    token: str,
    cluster_info: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allow(kubectl)
    account = service_account(tmp_path, namespace, token, cluster_info, monkeypatch)
    async with kubernetes_api.connect(service_account=account) as api:
        (account / "token").write_text("expired")
        assert (await api.request("GET", f"/api/v1/namespaces/{namespace}/pods"))["kind"] == "PodList"
