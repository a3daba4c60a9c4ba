"""Releases in a real cluster: side by side, each with its own rights, tested, upgraded, and gone as models allow."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Final

import pytest
import pytest_asyncio
from chart.helm import CHART, Helm, Object, Refused, path_of, values
from cluster.given import AnyCluster
from cluster.namespaces import new_namespace
from kubelet import Kubelet

from dp_vllm import crd
from dp_vllm.kubernetes_api import APPLY, ApiError, KubernetesApi

RELEASE: Final = "dp-vllm"
TEST: Final = "helm-test-dp-vllm"
ACCOUNT: Final = "dp-vllm-operator"
RBAC: Final = "rbac.authorization.k8s.io"
SECONDS: Final = 20.0

DOES: Final = (
    ("list", "dpmodels.dpvllm.io"),
    ("patch", "dpmodels/status.dpvllm.io"),
    ("create", "pods"),
    ("get", "pods/log"),
    ("patch", "deployments.apps"),
    ("create", "controllerrevisions.apps"),
    ("create", f"rolebindings.{RBAC}"),
    ("create", "persistentvolumeclaims"),
    ("create", "events"),
)
LEASES: Final = (
    ("get", "leases.coordination.k8s.io=dp-vllm-operator"),
    ("update", "leases.coordination.k8s.io=dp-vllm-operator"),
    ("create", "leases.coordination.k8s.io"),
)
DOES_NOT: Final = (
    ("get", "leases.coordination.k8s.io=another"),
    ("update", "leases.coordination.k8s.io=another"),
    ("delete", "leases.coordination.k8s.io=dp-vllm-operator"),
    ("list", "leases.coordination.k8s.io"),
    ("get", "secrets"),
    ("list", "secrets"),
    ("create", "pods/exec"),
    ("create", "dpmodels.dpvllm.io"),
    ("patch", "dpmodels.dpvllm.io"),
    ("delete", "dpmodels.dpvllm.io"),
    ("create", f"roles.{RBAC}"),
    ("escalate", f"roles.{RBAC}"),
    ("create", f"clusterrolebindings.{RBAC}"),
    ("bind", f"clusterroles.{RBAC}=cluster-admin"),
    ("impersonate", "users"),
    ("delete", "nodes"),
)

Said = Callable[..., Awaitable[str]]


@pytest_asyncio.fixture
async def other(api: KubernetesApi) -> AsyncIterator[str]:
    """One more namespace."""
    async with new_namespace(api) as name:
        yield name


@pytest.fixture
def say(helm: Helm, dpmodels: AnyCluster) -> Said:
    """Have helm do something in a namespace."""

    async def say(namespace: str, *words: str) -> str:
        where = (f"--kubeconfig={dpmodels.kubeconfig}", f"--namespace={namespace}")
        return await asyncio.to_thread(helm.run, *words, *where)

    return say


async def answered(api: KubernetesApi, path: str) -> bool:
    try:
        await api.request("GET", path)
    except ApiError as error:
        if error.status == 404:
            return False
        raise
    return True


async def can(api: KubernetesApi, user: str, verb: str, resource: str, namespace: str = "") -> bool:
    """As `kubectl auth can-i --as=USER`; a resource may have a part, a group and a name: `pods/log`, `a.group=name`."""
    resource, _, name = resource.partition("=")
    resource, _, group = resource.partition(".")
    resource, _, part = resource.partition("/")
    asked = {"verb": verb, "group": group, "resource": resource, "subresource": part, "name": name}
    body = {"spec": {"user": user, "resourceAttributes": {**asked, "namespace": namespace}}}
    answer = await api.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body=body)
    return bool(answer["status"]["allowed"])


async def which(
    api: KubernetesApi, namespace_of_account: str, calls: Iterable[tuple[str, str]], namespace: str
) -> list[tuple[str, str]]:
    """Which of these calls the operator of a release may send."""
    user = f"system:serviceaccount:{namespace_of_account}:{ACCOUNT}"
    return [call for call in calls if await can(api, user, *call, namespace)]


async def until_may(
    api: KubernetesApi, namespace_of_account: str, calls: tuple[tuple[str, str], ...], namespace: str
) -> None:
    """Wait until it may send all these calls: the API server learns of roles a moment after they are made, or gone."""
    end = time.monotonic() + SECONDS
    while (may := await which(api, namespace_of_account, calls, namespace)) != list(calls):
        assert time.monotonic() < end, sorted(set(calls) - set(may))
        await asyncio.sleep(0.05)


async def until_may_nothing(api: KubernetesApi, namespace: str) -> None:
    end = time.monotonic() + SECONDS
    while may := await which(api, namespace, DOES, namespace):
        assert time.monotonic() < end, may
        await asyncio.sleep(0.05)


async def applied(api: KubernetesApi, objects: Iterable[Object]) -> list[str]:
    """As an administrator would without helm; their paths."""
    query = {"fieldManager": "test", "force": "true"}
    paths = []
    for body in objects:
        await api.request("PATCH", path_of(body), query=query, body=body, content_type=APPLY)
        paths.append(path_of(body))
    return paths


async def test_a_kind_that_is_anothers_is_named(say: Said, namespace: str) -> None:
    with pytest.raises(Refused, match=f'CustomResourceDefinition "{crd.NAME}".* exists and cannot be imported'):
        await say(namespace, "install", RELEASE, str(CHART))


async def test_releases_of_one_name_live_side_by_side(
    say: Said, api: KubernetesApi, namespace: str, other: str, kubelet: Kubelet
) -> None:
    def given(served: str) -> list[str]:
        return values(crds__enabled="false", namespaces=f"{{{served}}}")

    await asyncio.gather(*(say(where, "install", RELEASE, str(CHART), *given(where)) for where in (namespace, other)))
    roles = [f"/apis/{RBAC}/v1/clusterroles/{where}:{RELEASE}-gateway" for where in (namespace, other)]
    for where, elsewhere in ((namespace, other), (other, namespace)):
        does = (*LEASES, *DOES, ("bind", f"clusterroles.{RBAC}={where}:{RELEASE}-gateway"))
        await until_may(api, where, does, where)
        assert await which(api, where, does, elsewhere) == []
        not_its = (*DOES_NOT, ("list", "nodes"), ("bind", f"clusterroles.{RBAC}={elsewhere}:{RELEASE}-gateway"))
        assert await which(api, where, not_its, where) == []

    kubelet.add_node()
    told = await say(namespace, "test", RELEASE, "--timeout=30s", "--logs")
    assert told.count("Succeeded") == 2 and "Failed" not in told
    pod = await api.request("GET", f"/api/v1/namespaces/{namespace}/pods/{TEST}")
    assert pod["spec"]["containers"][0]["command"][-1] == f"http://{TEST}.{namespace}.svc/v1"
    assert not await answered(api, f"/apis/dpvllm.io/v1alpha1/namespaces/{namespace}/dpmodels/{TEST}")

    await say(namespace, "upgrade", RELEASE, str(CHART), *given(namespace), *values(replicas="2"))
    deployment = await api.request("GET", f"/apis/apps/v1/namespaces/{namespace}/deployments/{ACCOUNT}")
    assert deployment["spec"]["replicas"] == 2

    for where in (other, namespace):
        await say(where, "uninstall", RELEASE)
    await until_may_nothing(api, namespace)
    # Models that are left serve on: their kind stays, and their gateways may see pods.
    assert await answered(api, f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd.NAME}")
    for role in roles:
        await api.request("DELETE", role)  # raises if it is gone


async def test_a_cluster_wide_operator_may_do_the_same_everywhere(
    helm: Helm, api: KubernetesApi, dpmodels: AnyCluster, namespace: str, other: str
) -> None:
    """But Leases: it writes one, in one namespace."""
    lease = values(leaseNamespace=namespace)
    made = helm.objects("--show-only=templates/rbac.yaml", *lease, namespace=namespace)
    paths = await applied(api, made)
    try:
        does = (
            *DOES,
            ("list", "nodes"),
            ("watch", "namespaces"),
            ("list", "leases.coordination.k8s.io=dp-vllm-operator"),
        )
        await until_may(api, namespace, does, other)
        await until_may(api, namespace, LEASES, namespace)
        assert await which(api, namespace, (*LEASES, *DOES_NOT), other) == []
        # Its own words for it, which the right to one name is enough for.
        account = f"--as=system:serviceaccount:{namespace}:{ACCOUNT}"
        one = ("--field-selector=metadata.name=dp-vllm-operator", "--all-namespaces")
        await asyncio.to_thread(dpmodels.kubectl, "get", "leases", account, *one)
    finally:
        for path in paths:
            await api.request("DELETE", path)


async def test_who_may_edit_a_namespace_may_have_models_in_it(
    helm: Helm, api: KubernetesApi, dpmodels: AnyCluster, namespace: str, other: str
) -> None:
    users = {f"{role}-{namespace}": role for role in ("view", "edit")}
    bindings = [
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": user, "namespace": namespace},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": RBAC, "kind": "User", "name": user}],
        }
        for user, role in users.items()
    ]
    await applied(api, bindings)
    paths = await applied(api, helm.objects("--show-only=templates/users.yaml", namespace=namespace))
    viewer, editor = users
    try:
        async with asyncio.timeout(SECONDS):
            for call in ((viewer, "list"), (editor, "create"), (editor, "patch"), (editor, "get")):
                while not await can(api, *call, "dpmodels.dpvllm.io", namespace):
                    await asyncio.sleep(0.05)
            while not await can(api, editor, "patch", "dpmodels/scale.dpvllm.io", namespace):
                await asyncio.sleep(0.05)
        assert not await can(api, viewer, "create", "dpmodels.dpvllm.io", namespace)
        assert not await can(api, editor, "patch", "dpmodels/status.dpvllm.io", namespace)
        assert not await can(api, editor, "create", "dpmodels.dpvllm.io", other)
    finally:
        for path in paths:
            await api.request("DELETE", path)
