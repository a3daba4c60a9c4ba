"""The example of an admission policy on a real API server: which DPModels it takes, which it refuses, and why."""

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio

from dp_vllm import names
from dp_vllm.kubernetes_api import ApiError, KubernetesApi
from dp_vllm_operator.cluster import MODEL
from examples.documents import FOLDER, MODELS, documents

pytestmark = pytest.mark.usefixtures("dpmodels")

Json = dict[str, Any]

GROUP: Final = "/apis/admissionregistration.k8s.io/v1"
POLICY, BINDING = (one.body for one in documents(FOLDER / "admission-policy.yaml"))
SECONDS: Final = 30.0
NO_RIGHTS: Final = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def pod(**fields: Any) -> Json:
    return {"template": {"spec": fields}}


def engine(**fields: Any) -> Json:
    return pod(containers=[{"name": "engine", **fields}])


def secret(name: str) -> Json:
    return {"valueFrom": {"secretKeyRef": {"name": name, "key": "k"}}}


TAKEN: Final[dict[str, Json]] = {
    "nothing": {},
    "usual fields": {
        "hfTokenSecretRef": {"name": "hub"},
        "apiKeySecretRef": {"name": "keys"},
        "cache": {"claim": {"size": "1Gi"}},
    },
    "a template": pod(
        tolerations=[{"operator": "Exists"}],
        imagePullSecrets=[{"name": "registry"}],
        securityContext={"supplementalGroups": [7]},
        volumes=[{"name": "v", "configMap": {"name": "c"}}, {"name": "s", "secret": {"secretName": "hub"}}],
        containers=[
            {
                "name": "engine",
                "env": [{"name": "A", **secret("hub")}],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            },
            {"name": "sidecar", "image": "i", "securityContext": NO_RIGHTS},
        ],
        initContainers=None,
    ),
}

REFUSED: Final[dict[str, tuple[Json, str]]] = {
    **{
        field: (pod(**{field: True}), "hostNetwork, hostPID and hostIPC")
        for field in ("hostNetwork", "hostPID", "hostIPC")
    },
    "privileged": (engine(securityContext={"privileged": True}), "a container is privileged"),
    "escalation": (engine(securityContext={"allowPrivilegeEscalation": True}), "may gain privileges"),
    "capabilities": (engine(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}), "has capabilities"),
    "capabilities that are kept": (engine(securityContext={"capabilities": {"drop": []}}), "has capabilities"),
    "a default taken out": (engine(securityContext={"allowPrivilegeEscalation": None}), "`$patch` and null"),
    "capabilities replaced": (engine(securityContext={"capabilities": {"$patch": "replace"}}), "`$patch` and null"),
    "unconfined": (pod(securityContext={"seccompProfile": {"type": "Unconfined"}}), "a container is privileged"),
    "root": (engine(securityContext={"runAsUser": 0}), "runAsUser 0"),
    "root by the pod": (pod(securityContext={"runAsNonRoot": False}), "runAsNonRoot false"),
    "an init container": (
        pod(initContainers=[{"name": "i", "image": "i", "securityContext": {**NO_RIGHTS, "privileged": True}}]),
        "a container is privileged",
    ),
    "a sidecar as it comes": (pod(containers=[{"name": "s", "image": "i"}]), "each further container needs"),
    "a context taken out": (engine(securityContext=None), "`$patch` and null"),
    "a context replaced": (engine(securityContext={"$patch": "replace"}), "`$patch`"),
    "the containers replaced": (pod(containers=[{"$patch": "replace", "name": "engine"}]), "`$patch`"),
    "the pod replaced": (pod(**{"$patch": "replace"}), "`$patch`"),
    "an account": (pod(serviceAccountName="admin"), "serviceAccountName"),
    "a token": (pod(automountServiceAccountToken=True), "automountServiceAccountToken"),
    "a node": (pod(nodeName="n"), "spec.template.spec.nodeName"),
    "a port of the node": (engine(ports=[{"containerPort": 1, "hostPort": 1}]), "hostPort is forbidden"),
    "a directory of the node": (pod(volumes=[{"name": "v", "hostPath": {"path": "/"}}]), "only configMap"),
    "a token by a volume": (
        pod(volumes=[{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]),
        "only configMap",
    ),
    "the cache on the node": ({"cache": {"hostPath": "/data"}}, "spec.cache.hostPath is forbidden"),
    "a Secret in a volume": (
        pod(volumes=[{"name": "v", "secret": {"secretName": "db"}}]),
        "hub, keys, registry and no",
    ),
    "a Secret in a variable": ({"engine": {"env": [{"name": "A", **secret("db")}]}}, "hub, keys, registry and no"),
    "a Secret in a template": (engine(env=[{"name": "A", **secret("db")}]), "hub, keys, registry and no"),
    "all of a Secret": (engine(envFrom=[{"secretRef": {"name": "db"}}]), "hub, keys, registry and no"),
    "a Secret as the token": ({"hfTokenSecretRef": {"name": "db"}}, "hub, keys, registry and no"),
    "a Secret as keys": ({"apiKeySecretRef": {"name": "db"}}, "hub, keys, registry and no"),
    "a Secret as administrators' keys": ({"adminApiKeySecretRef": {"name": "db"}}, "hub, keys, registry and no"),
    "an image": ({"engine": {"image": "evil/vllm:1"}}, "must begin with one of vllm/, i"),
    "a gateway's image": ({"gateway": {"image": "evil/vllm:1"}}, "must begin with one of vllm/, i"),
}


async def why_refused(api: KubernetesApi, namespace: str, name: str, fields: Json) -> str:
    """The API server's words about a DPModel with these fields; empty if it takes it."""
    body = {
        "apiVersion": MODEL.api_version,
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": {"model": "org/model", **fields},
    }
    try:
        await api.request("POST", MODEL.path(namespace), query={"dryRun": "All"}, body=body)
    except ApiError as error:
        return str(error)
    return ""


@pytest_asyncio.fixture
async def policed(api: KubernetesApi, namespace: str) -> AsyncIterator[str]:
    """A namespace with the policy, for certain registries, and no other one with it."""
    policy, binding = copy.deepcopy(POLICY), copy.deepcopy(BINDING)
    policy["metadata"]["name"] = binding["metadata"]["name"] = binding["spec"]["policyName"] = namespace
    (registries,) = (one for one in policy["spec"]["variables"] if one["name"] == "registries")
    registries["expression"] = "['vllm/', 'i']"
    where = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [namespace]}
    binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"].append(where)
    made = (("validatingadmissionpolicies", policy), ("validatingadmissionpolicybindings", binding))
    for plural, body in made:
        await api.request("POST", f"{GROUP}/{plural}", body=body)
    async with asyncio.timeout(SECONDS):
        while not await why_refused(api, namespace, "m", pod(hostNetwork=True)):
            await asyncio.sleep(0.1)
    yield namespace
    for plural, _ in made:
        await api.request("DELETE", f"{GROUP}/{plural}/{namespace}")


async def test_it_takes_ordinary_models_and_says_what_it_refuses(api: KubernetesApi, policed: str) -> None:
    taken = [*TAKEN.values(), *(one.body["spec"] for one in MODELS if one.name == "two-models")]
    judged = await asyncio.gather(*(why_refused(api, policed, "m", fields) for fields in taken))
    assert judged == [""] * len(taken)

    words = await asyncio.gather(*(why_refused(api, policed, "m", fields) for fields, _ in REFUSED.values()))
    unclear = {
        case: said
        for (case, (_, why)), said in zip(REFUSED.items(), words, strict=True)
        if "is forbidden: ValidatingAdmissionPolicy" not in said or why not in said
    }
    assert unclear == {}
