"""What a real API server makes of what is rendered: it takes it, and hands back what does not differ."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import pytest
import pytest_asyncio
from cluster.errors import ClusterError
from cluster.fixtures import Kubectl
from cluster.given import AnyCluster
from models import SETTINGS, Json
from models import model as a_model

from dp_vllm import names
from dp_vllm.kubernetes_api import MERGE, ApiError, KubernetesApi, Object
from dp_vllm_operator import cluster as calls
from dp_vllm_operator.cluster import Kind
from dp_vllm_operator.model import Model
from dp_vllm_operator.render.children import Child, as_applied, children, differs, must_be_made_anew, owned_by
from dp_vllm_operator.render.pod import pod, pod_template
from dp_vllm_operator.revision import New, Revision, controller_revision, user_part

pytestmark = pytest.mark.usefixtures("dpmodels")

CLAIM: Final[Json] = {"claim": {"size": "1Gi", "accessMode": "ReadWriteOnce", "retain": False}}
RICH_TEMPLATE: Final[Json] = {
    "metadata": {"labels": {"team": "a"}, "annotations": {"sidecar.istio.io/inject": "false"}},
    "spec": {
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "priorityClassName": "system-cluster-critical",
        "securityContext": {"supplementalGroups": [7]},
        "volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "2Gi"}}, {"name": "own", "emptyDir": {}}],
        "containers": [
            {"name": "engine", "volumeMounts": [{"name": "own", "mountPath": "/own"}],
             "livenessProbe": {"tcpSocket": {"port": 8000}, "initialDelaySeconds": 1},
             "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
             "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
             "ports": [{"name": "kv", "containerPort": 5557}]},
        ],
    },
}  # fmt: skip
SPECS: Final[dict[str, Json]] = {
    "plain": {},
    "simulated": {"engine": {"accelerator": "none", "image": "dp-vllm/sim:0.1.0"}},
    "claim": {"cache": CLAIM, "hfTokenSecretRef": {"name": "hub"}},
    "retained": {"cache": {"claim": {"size": "1.5Gi", "storageClassName": ""}}},
    "theirs": {"cache": {"existingClaim": "weights"}},
    "openshift": {"engine": {"runAsUser": -1}},
    "large": {
        "tensorParallelSize": 4,
        "pipelineParallelSize": 2,
        "servedModelName": "large",
        "engine": {
            "args": ["--max-model-len", "8192"],
            "env": [{"name": "A", "value": "$(HF_HOME)"}],
            "resources": {"limits": {"cpu": "1.5", "memory": "1.5Gi"}, "requests": {"cpu": 1}},
            "startupTimeoutSeconds": 1,
        },
        "rollout": {"drainTimeoutSeconds": 0},
    },
    "gateway": {
        "apiKeySecretRef": {"name": "keys"},
        "gateway": {
            "replicas": 3,
            "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}, "requests": {"cpu": "0.25"}},
            "service": {"type": "NodePort", "port": 8080},
        },
    },
    "template": {"template": RICH_TEMPLATE, "cache": CLAIM},
}


@pytest.fixture
def restricted(namespace: str, control_plane: AnyCluster) -> str:
    """A namespace that admits only pods without any privilege, and warns of whatever would make one."""
    labels = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")]
    control_plane.kubectl("label", "namespace", namespace, *labels)
    return namespace


def model(namespace: str, name: str = "m", **fields: Any) -> Model:
    return a_model(namespace=namespace, name=name, **fields)


def objects(of: Model) -> list[Json]:
    """Everything that a model becomes."""
    present = user_part(of, SETTINGS)
    new = New(1, present, pod_template(of.name, present))
    return [
        *(child.creation for child in children(of, SETTINGS)),
        controller_revision(of, new),
        pod(new.template, of, 1, 0),
    ]


def test_it_takes_all_that_models_become_and_warns_of_nothing(restricted: str, kubectl: Kubectl) -> None:
    everything = [one for name, fields in SPECS.items() for one in objects(model(restricted, name, **fields))]
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": everything})

    kubectl("create", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "--filename=-", stdin=manifest)


def test_a_directory_of_the_node_needs_a_privileged_namespace(restricted: str, kubectl: Kubectl) -> None:
    *_, made = objects(model(restricted, cache={"hostPath": "/data"}))

    with pytest.raises(ClusterError, match=r'violates PodSecurity .*"hostPath"'):
        kubectl("create", "--dry-run=server", "--filename=-", stdin=json.dumps(made))


def test_a_directory_of_the_node_is_taken_elsewhere(namespace: str, kubectl: Kubectl) -> None:
    *_, made = objects(model(namespace, cache={"hostPath": "/data"}))

    kubectl("create", "--dry-run=server", "--validate=strict", "--filename=-", stdin=json.dumps(made))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"nodeSelecter": {"a": "b"}}, 'unknown field "spec.nodeSelecter"'),
        ({"containers": [{"name": "engine", "ports": [{"name": "http", "containerPort": 1}]}]}, "Duplicate value"),
        ({"hostPID": True}, "ShareProcessNamespace and HostPID cannot both be enabled"),
        ({"priorityClassName": "none"}, "no PriorityClass with name none"),
        ({"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]}, "may not specify more than 1 volume"),
    ],
)
async def test_a_template_that_makes_no_pod_is_refused_in_its_words(
    api: KubernetesApi, namespace: str, fields: Json, said: str
) -> None:
    *_, made = objects(model(namespace, template={"spec": fields}))

    with pytest.raises(ApiError, match=said):
        await calls.Cluster(api).try_pod(namespace, made)


def test_a_stored_revision_is_read_back_as_it_was(namespace: str, kubectl: Kubectl) -> None:
    of = model(namespace, template=RICH_TEMPLATE)
    made = New(7, user_part(of, SETTINGS), pod_template("m", user_part(of, SETTINGS)))
    body = json.dumps(controller_revision(of, made))

    # As the answer to its making: its owner does not exist, so it is not there for long.
    revision = Revision.of(json.loads(kubectl("create", "--filename=-", "--output=json", stdin=body)))

    assert (revision.number, revision.user_part, revision.template) == (7, made.user_part, made.template)


# Live objects


class Cluster:
    """One model's children on the API server, written as the operator does it."""

    def __init__(self, api: KubernetesApi, of: Model) -> None:
        self._calls = calls.Cluster(api)
        self.model = of

    def wanted(self, **fields: Any) -> tuple[Child, ...]:
        return children(model(self.model.namespace, uid=self.model.uid, **fields), SETTINGS)

    async def live(self, child: Child) -> Object:
        """As it is listed."""
        found = await self._calls.children(_kind(child), self.model.namespace, self.model.name)
        (one,) = (one for one in found if one["metadata"]["name"] == child.name)
        return one

    async def create(self, wanted: Iterable[Child]) -> None:
        namespace = self.model.namespace
        await asyncio.gather(*(self._calls.create(_kind(child), namespace, child.creation) for child in wanted))

    async def apply(self, *wanted: Child) -> None:
        await asyncio.gather(*map(self._apply, wanted))

    async def _apply(self, child: Child) -> None:
        live = await self.live(child)
        if patch := as_applied(live):
            try:
                await self._calls.patch(_kind(child), self.model.namespace, child.name, patch)
            except ApiError as error:
                if error.status != 409:  # else its controller has written meanwhile
                    raise
                return await self._apply(child)
        await self._calls.apply(_kind(child), self.model.namespace, child.name, child.application(live))
        return None

    async def change(self, child: Child, patch: Json) -> None:
        """As somebody else would."""
        path = _kind(child).path(self.model.namespace, child.name)
        await self._calls._api.request("PATCH", path, query={"fieldManager": "me"}, body=patch, content_type=MERGE)

    async def differing(self, wanted: Iterable[Child]) -> set[tuple[str, str]]:
        wanted = tuple(wanted)
        live = await asyncio.gather(*map(self.live, wanted))
        return {(one.kind, one.name) for one, body in zip(wanted, live, strict=True) if differs(body, one)}


def _kind(child: Child) -> Kind:
    return Kind(child.api_version, child.plural)


@pytest_asyncio.fixture
async def cluster(api: KubernetesApi, namespace: str) -> AsyncIterator[Cluster]:
    """A DPModel without an operator."""
    of = model(namespace)
    path = f"/apis/{names.API_GROUP}/{names.API_VERSION}/namespaces/{namespace}/{names.PLURAL}"
    body = {"apiVersion": f"{names.API_GROUP}/{names.API_VERSION}", "kind": names.KIND, "metadata": {"name": of.name},
            "spec": {"model": "org/model"}}  # fmt: skip
    made = await api.request("POST", path, body=body)
    yield Cluster(api, model(namespace, uid=made["metadata"]["uid"]))


@pytest.mark.parametrize("name", ["plain", "retained", "gateway", "template"])
async def test_what_was_made_does_not_differ_and_neither_does_what_was_applied(cluster: Cluster, name: str) -> None:
    wanted = cluster.wanted(**SPECS[name])
    await cluster.create(wanted)

    assert await cluster.differing(wanted) == set()
    await cluster.apply(*wanted)
    assert await cluster.differing(wanted) == set()
    assert all([owned_by(await cluster.live(child), cluster.model) for child in wanted])


CHANGES: Final[dict[str, Json]] = {
    "Service": {"spec": {"selector": {"more": "x"}}},
    "Deployment": {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}},
    "ConfigMap": {"data": {"engine_life.py": "raise SystemExit(1)"}},
    "PodDisruptionBudget": {"spec": {"maxUnavailable": 2}},
    "NetworkPolicy": {"spec": {"ingress": [{}]}},
    "RoleBinding": {"subjects": [{"kind": "User", "name": "x"}]},
    "ServiceAccount": {"automountServiceAccountToken": True},
}


@pytest.mark.parametrize("kind", CHANGES)
async def test_what_somebody_changed_differs_and_is_put_right(cluster: Cluster, kind: str) -> None:
    wanted = cluster.wanted()
    child = next(one for one in wanted if one.kind == kind)
    await cluster.create([child])
    await cluster.change(child, CHANGES[kind])

    assert await cluster.differing([child]) == {(child.kind, child.name)}
    await cluster.apply(child)
    assert await cluster.differing([child]) == set()


async def test_what_is_asked_for_no_more_is_taken_out(cluster: Cluster) -> None:
    before = cluster.wanted(
        apiKeySecretRef={"name": "keys"},
        gateway={"resources": {"limits": {"cpu": 1, "memory": "1Gi"}}, "service": {"port": 8080}},
        cache=CLAIM,
    )
    after = cluster.wanted(
        gateway={"resources": {"limits": {"cpu": 1}}}, cache={"claim": CLAIM["claim"] | {"retain": True}}
    )
    await cluster.create(before)
    changed = await cluster.differing(after)

    await cluster.apply(*(child for child in after if (child.kind, child.name) in changed))

    live = {child.kind: await cluster.live(child) for child in after}
    assert changed == {("Deployment", "m-gateway"), ("Service", "m"), ("PersistentVolumeClaim", "m-cache")}
    assert await cluster.differing(after) == set()
    gateway = live["Deployment"]["spec"]["template"]["spec"]
    assert "volumes" not in gateway
    assert gateway["containers"][0]["resources"] == {"limits": {"cpu": "1"}}
    assert [port["port"] for port in live["Service"]["spec"]["ports"]] == [80]
    assert "ownerReferences" not in live["PersistentVolumeClaim"]["metadata"]


async def test_what_others_added_stays(cluster: Cluster) -> None:
    (child,) = (one for one in cluster.wanted() if one.kind == "Deployment")
    await cluster.create([child])
    await cluster.change(child, {"spec": {"template": {"metadata": {"annotations": {"restartedAt": "now"}}}}})

    await cluster.apply(child)

    live = await cluster.live(child)
    assert live["spec"]["template"]["metadata"]["annotations"] == {"restartedAt": "now"}
    assert not differs(live, child)


async def test_the_number_of_gateways_stays_as_an_autoscaler_set_it(cluster: Cluster) -> None:
    def deployment(**fields: Any) -> Child:
        (one,) = (one for one in cluster.wanted(**fields) if one.kind == "Deployment")
        return one

    def replicas(live: Object) -> int:
        return int(live["spec"]["replicas"])

    await cluster.create([deployment()])
    made = replicas(await cluster.live(deployment()))
    await cluster.apply(deployment(gateway={"replicas": 3}))
    asked = replicas(await cluster.live(deployment()))
    await cluster.change(deployment(), {"spec": {"replicas": 7}})
    await cluster.apply(deployment(gateway={"image": "x"}))
    left = replicas(await cluster.live(deployment()))
    await cluster.apply(deployment())

    assert (made, asked, left, replicas(await cluster.live(deployment()))) == (2, 3, 7, 7)


async def test_an_apply_makes_nothing_anew(cluster: Cluster) -> None:
    (child,) = (one for one in cluster.wanted() if one.kind == "Service")
    await cluster.create([child])
    before = await cluster.live(child)
    await cluster._calls.delete(_kind(child), cluster.model.namespace, child.name, before["metadata"]["uid"])

    with pytest.raises(ApiError, match="uid mismatch") as error:
        await cluster._calls.apply(_kind(child), cluster.model.namespace, child.name, child.application(before))
    assert error.value.status == 409


async def test_a_download_is_left_as_it_is(cluster: Cluster) -> None:
    def job(**engine: Any) -> Child:
        (one,) = (one for one in cluster.wanted(cache=CLAIM, engine=engine) if one.kind == "Job")
        return one

    await cluster.create([job()])
    before = await cluster.live(job())

    assert not differs(before, job(image="x"))
    await cluster.apply(job(image="x"))
    assert (await cluster.live(job()))["spec"] == before["spec"]


async def test_another_role_needs_another_binding(cluster: Cluster) -> None:
    def binding(role: str) -> Child:
        all_children = children(cluster.model, dataclasses.replace(SETTINGS, gateway_cluster_role=role))
        (one,) = (one for one in all_children if one.kind == "RoleBinding")
        return one

    await cluster.create([binding("a")])
    live = await cluster.live(binding("a"))

    assert must_be_made_anew(live, binding("b"))
    assert not must_be_made_anew(live, binding("a"))
