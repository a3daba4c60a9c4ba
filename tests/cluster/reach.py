"""Speaks from here to what has an address inside a cluster only."""

import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .cluster import Cluster
from .errors import ClusterError
from .given import AnyCluster, GivenCluster


@contextmanager
def reached(cluster: AnyCluster, namespace: str, what: str, port: int, image: str) -> Iterator[str]:
    """A URL at which a port of a Service or a pod (`service/m`, `pod/m-1-0`) is reached, until the block ends.

    `image` is for a cluster that is not the test bed's own: one with Python, for a pod that passes everything on.
    """
    kind, _, _ = what.partition("/")
    path = {"service": "{.spec.clusterIP}", "pod": "{.status.podIP}"}[kind]
    host = cluster.kubectl("get", what, f"--namespace={namespace}", f"--output=jsonpath={path}")
    if isinstance(cluster, Cluster):
        local_port = cluster.expose(host, port)
        try:
            yield f"http://127.0.0.1:{local_port}"
        finally:
            cluster.conceal(local_port)
    else:
        with _relay_pod(cluster, namespace, host, port, image) as pod, _forwarded(cluster, namespace, pod) as url:
            yield url


@contextmanager
def _relay_pod(cluster: GivenCluster, namespace: str, host: str, port: int, image: str) -> Iterator[str]:
    name = f"relay-{uuid.uuid4().hex[:8]}"
    program = Path(__file__).with_name("relay.py").read_text()
    container = {
        "name": "relay",
        "image": image,
        "command": ["python3", "-I", "-c", program, "listen", host, str(port)],
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
    }
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec}
    cluster.kubectl("create", "--filename=-", stdin=json.dumps(manifest))
    try:
        cluster.kubectl("wait", f"pod/{name}", f"--namespace={namespace}", "--for=condition=Ready", "--timeout=60s")
        yield name
    finally:
        cluster.kubectl("delete", "pod", name, f"--namespace={namespace}", "--wait=false")


@contextmanager
def _forwarded(cluster: GivenCluster, namespace: str, pod: str) -> Iterator[str]:
    command = cluster.kubectl_command("port-forward", f"--namespace={namespace}", f"pod/{pod}", ":8000")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            said = process.stdout.readline()
            found = re.match(r"Forwarding from (127\.0\.0\.1:\d+)", said)
            if not found:
                raise ClusterError(f"{' '.join(command)}: {said.strip()}")
            yield f"http://{found[1]}"
        finally:
            process.terminate()
