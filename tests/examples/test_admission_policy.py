"""The examples of admission policies on a real API server: what they take, what they refuse, and why."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Final

import pytest
import yaml
from cluster.errors import ClusterError
from cluster.given import AnyCluster

from dp_vllm import names
from dp_vllm.kubernetes_api import ApiError, KubernetesApi
from dp_vllm_operator.cluster import MODEL
from examples.documents import FOLDER, MODELS, documents

pytestmark = pytest.mark.usefixtures("dpmodels")

Json = dict[str, Any]

GROUP: Final = "/apis/admissionregistration.k8s.io/v1"
SECONDS: Final = 30.0
APP_ARMOR: Final = "container.apparmor.security.beta.kubernetes.io"
ELSEWHERE: Final = {"httpGet": {"host": "169.254.169.254", "port": 80}}
HANDLERS: Final[dict[str, Json]] = {
    "liveness": {"livenessProbe": {"tcpSocket": {"host": "10.0.0.1", "port": 1}}},
    "readiness": {"readinessProbe": ELSEWHERE},
    "startup": {"startupProbe": ELSEWHERE},
    "start": {"lifecycle": {"postStart": ELSEWHERE}},
    "end": {"lifecycle": {"preStop": ELSEWHERE}},
}
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
            {
                "name": "sidecar",
                "image": "i",
                "securityContext": NO_RIGHTS,
                "readinessProbe": {"httpGet": {"path": "/", "port": 1}},
                "lifecycle": {"preStop": {"exec": {"command": ["sleep", "1"]}}},
            },
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
    "the containers taken out": (pod(containers=None), "containers: null"),
    "AppArmor by an annotation": (
        {"template": {"metadata": {"annotations": {f"{APP_ARMOR}/engine": "unconfined"}}}},
        "AppArmor's are forbidden",
    ),
    **{
        f"a request of the node by {field}": (engine(**fields), "a host in a probe or a lifecycle hook")
        for field, fields in HANDLERS.items()
    },
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


@contextlib.asynccontextmanager
async def policed(api: KubernetesApi, namespace: str, file: str, old: str = "", new: str = "") -> AsyncIterator[None]:
    """The namespace has the policy of a file, with one text in it replaced, and no other namespace has it."""
    policy, binding = (
        yaml.safe_load(one.text.replace(old, new) if old else one.text) for one in documents(FOLDER / file)
    )
    policy["metadata"]["name"] = binding["metadata"]["name"] = binding["spec"]["policyName"] = namespace
    selector = binding["spec"].setdefault("matchResources", {}).setdefault("namespaceSelector", {})
    where = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [namespace]}
    selector.setdefault("matchExpressions", []).append(where)
    made = (("validatingadmissionpolicies", policy), ("validatingadmissionpolicybindings", binding))
    for plural, body in made:
        await api.request("POST", f"{GROUP}/{plural}", body=body)
    try:
        yield
    finally:
        for plural, _ in made:
            await api.request("DELETE", f"{GROUP}/{plural}/{namespace}")


async def until_it_holds(refusal: Callable[[], Awaitable[str]]) -> None:
    """The API server learns of a policy a moment after it is made."""
    async with asyncio.timeout(SECONDS):
        while not await refusal():
            await asyncio.sleep(0.1)


async def test_templates_without_privileges_are_taken_and_each_other_is_refused_with_its_reason(
    api: KubernetesApi, namespace: str
) -> None:
    def judged(cases: Iterable[Json]) -> Awaitable[list[str]]:
        return asyncio.gather(*(why_refused(api, namespace, "m", fields) for fields in cases))

    async with policed(api, namespace, "admission-policy.yaml", "\"['']\"", "\"['vllm/', 'i']\""):
        await until_it_holds(lambda: why_refused(api, namespace, "m", pod(hostNetwork=True)))
        taken = [*TAKEN.values(), *(one.body["spec"] for one in MODELS if one.name == "two-models")]
        assert await judged(taken) == [""] * len(taken)
        words = await judged(fields for fields, _ in REFUSED.values())
    unclear = {
        case: said
        for (case, (_, why)), said in zip(REFUSED.items(), words, strict=True)
        if "is forbidden: ValidatingAdmissionPolicy" not in said or why not in said
    }
    assert unclear == {}


LABELS: Final = {names.MODEL_LABEL: "m", names.COMPONENT_LABEL: names.REPLICA}


def bare(labels: Json) -> Json:
    spec = {"containers": [{"name": "c", "image": "i"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels}, "spec": spec}


def deployment(labels: Json) -> Json:
    spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": bare({})["spec"]}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec}


def job(labels: Json) -> Json:
    spec = {"template": {"metadata": {"labels": labels}, "spec": {**bare({})["spec"], "restartPolicy": "Never"}}}
    cron = {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": spec}}
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "c"}, "spec": cron}


async def test_only_the_operator_makes_pods_with_the_labels_of_a_model(
    dpmodels: AnyCluster, api: KubernetesApi, namespace: str
) -> None:
    operator = "system:serviceaccount:dp-vllm-system:dp-vllm-operator"

    async def kubectl(*words: str, body: Json | None = None) -> str:
        """Why it is refused; empty if it is taken."""
        call = (*words, "--namespace", namespace, "--dry-run=server", *(["--filename=-"] if body else []))
        try:
            await asyncio.to_thread(dpmodels.kubectl, *call, stdin=json.dumps(body))
        except ClusterError as error:
            return str(error)
        return ""

    as_operator = ("create", f"--as={operator}", "--as-group=system:masters")
    await api.request("POST", f"/api/v1/namespaces/{namespace}/pods", body=bare(LABELS))
    async with policed(api, namespace, "label-policy.yaml"):
        await until_it_holds(lambda: kubectl("create", body=deployment(LABELS)))
        for made in (deployment(LABELS), job(LABELS)):
            assert "the label dpvllm.io/model is the operator's" in await kubectl("create", body=made)
            assert await kubectl(*as_operator, body=made) == ""
        assert await kubectl("create", body=deployment({"app": "a"})) == ""
        # One that has the label may be changed, but gets no other.
        assert await kubectl("label", "pod", "p", "more=x") == ""
        assert "is the operator's" in await kubectl("label", "pod", "p", "--overwrite", f"{names.MODEL_LABEL}=n")
        patch = json.dumps({"metadata": {"labels": {names.MODEL_LABEL: "n"}}})
        by_its_status = ("patch", "pod", "p", "--subresource=status", "--type=merge", f"--patch={patch}")
        assert "is the operator's" in await kubectl(*by_its_status)
