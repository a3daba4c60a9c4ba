"""etcd, the API server, the controller manager, the scheduler and, for pods, cluster DNS."""

import json
import ssl
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ports import free_port

from .certificates import Certificates
from .errors import ClusterError
from .machine import Host

SERVICE_NETWORK = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
ADDRESS = "10.77.0.1"  # of the control plane's machine, if there are nodes

_ADMISSION = (
    "NodeRestriction",
    "OwnerReferencesPermissionEnforcement",  # as OpenShift has it: who owns what is checked
    "PodNodeSelector",  # the pods of a namespace go to its own nodes, if its annotation says so
)

_COREFILE = """\
.:53 {{
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 2
    }}
    cache 2
}}
"""


@dataclass(frozen=True)
class Ports:
    etcd: int = 2379
    etcd_peer: int = 2380
    api: int = 6443

    @classmethod
    def free(cls) -> Self:
        """Ports on which nobody listens."""
        return cls(*(free_port() for _ in range(3)))


class ControlPlane:
    """`address` is where the API server listens, `server` is its URL there."""

    def __init__(self, host: Host, certificates: Certificates, address: str, ports: Ports) -> None:
        self.host = host
        self.address = address
        self.ports = ports
        self.server = f"https://{address}:{ports.api}"
        self._certificates = certificates

    def issue_certificates(self) -> None:
        issue = self._certificates.issue
        names = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
                 "kubernetes.default.svc.cluster.local")  # fmt: skip
        addresses = dict.fromkeys(("127.0.0.1", self.address, API_SERVICE_ADDRESS))
        issue("apiserver", "kube-apiserver",
              addresses=[*(f"DNS:{name}" for name in names), *(f"IP:{address}" for address in addresses)])  # fmt: skip
        issue("kubelet-client", "kube-apiserver", groups=["system:masters"])
        issue("admin", "admin", groups=["system:masters"])
        issue("controller-manager", "system:kube-controller-manager")
        issue("scheduler", "system:kube-scheduler")
        issue("service-accounts", "service-accounts")  # it signs their tokens

    def kubeconfig(self, name: str) -> Path:
        """Where the kubeconfig of a component of the control plane is."""
        return self.host.folder / f"{name}.kubeconfig"

    @property
    def audit_log(self) -> Path:
        """Every request that the API server has answered, see `audit`."""
        return self.host.logs / "audit.log"

    def start_api(self) -> None:
        for name in ("admin", "controller-manager", "scheduler"):
            self._certificates.write_kubeconfig(self.kubeconfig(name), name, self.server)
        self._start_etcd()
        self._start_apiserver()

    def start_controllers(self) -> None:
        """Only when the API is ready: before its bootstrap roles exist, the controller manager is denied, and exits."""
        c = self._certificates
        self.host.start(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig('controller-manager')}",
            f"--root-ca-file={c.certificate('ca')}",
            f"--service-account-private-key-file={c.key('service-accounts')}",
            f"--cluster-signing-cert-file={c.certificate('ca')}",
            f"--cluster-signing-key-file={c.key('ca')}",
            "--use-service-account-credentials=true",
            "--kube-api-qps=500",  # 20 by default, which spreads the start of its controllers over five seconds
            "--kube-api-burst=500",
            "--node-monitor-grace-period=20s",  # 50 s by default until a dead node is NotReady
            "--horizontal-pod-autoscaler-sync-period=2s",  # 15 by default until an autoscaler looks
            "--leader-elect=false",
            "--secure-port=0",
        )
        self.host.start(
            "kube-scheduler",
            f"--kubeconfig={self.kubeconfig('scheduler')}",
            "--leader-elect=false",
            "--secure-port=0",
        )

    def start_dns(self) -> None:
        corefile = self.host.folder / "Corefile"
        corefile.write_text(_COREFILE.format(kubeconfig=self.kubeconfig("admin")))
        self.host.start("coredns", "-conf", corefile)

    def wait_ready(self, server: str, timeout_seconds: float = 60) -> None:
        """Wait until the API, reached at `server`, says that it is ready."""
        context = ssl.create_default_context(cafile=self._certificates.certificate("ca"))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        deadline = time.monotonic() + timeout_seconds
        while True:
            self.host.check()
            try:
                opener.open(f"{server}/readyz", timeout=2).close()
                return
            except OSError as error:  # refused, reset, or an HTTP status that says not yet
                if time.monotonic() > deadline:
                    raise ClusterError(f"the API server is not ready after {timeout_seconds} s: {error}") from None
            time.sleep(0.1)

    def _start_etcd(self) -> None:
        client, peer = f"http://127.0.0.1:{self.ports.etcd}", f"http://127.0.0.1:{self.ports.etcd_peer}"
        self.host.start(
            "etcd",
            f"--data-dir={self.host.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        )

    def _audit_policy(self) -> Path:
        policy = self.host.folder / "audit-policy.json"
        rules = [{"level": "Metadata", "omitStages": ["RequestReceived"]}]
        policy.write_text(json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
        return policy

    def _start_apiserver(self) -> None:
        c = self._certificates
        self.host.start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.ports.etcd}",
            f"--bind-address={self.address}",
            f"--secure-port={self.ports.api}",
            f"--advertise-address={ADDRESS}",  # of the `kubernetes` Service; may not be a loopback address
            "--authorization-mode=Node,RBAC",
            f"--enable-admission-plugins={','.join(_ADMISSION)}",
            f"--audit-policy-file={self._audit_policy()}",
            f"--audit-log-path={self.audit_log}",
            "--audit-log-maxsize=10000",  # in megabytes; 100 by default, after which it is begun anew
            "--allow-privileged=true",
            f"--service-cluster-ip-range={SERVICE_NETWORK}",
            f"--client-ca-file={c.certificate('ca')}",
            f"--tls-cert-file={c.certificate('apiserver')}",
            f"--tls-private-key-file={c.key('apiserver')}",
            f"--kubelet-certificate-authority={c.certificate('ca')}",
            f"--kubelet-client-certificate={c.certificate('kubelet-client')}",
            f"--kubelet-client-key={c.key('kubelet-client')}",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={c.certificate('service-accounts')}",
            f"--service-account-signing-key-file={c.key('service-accounts')}",
            "--enable-aggregator-routing=true",  # webhooks are called at pod addresses: no kube-proxy runs here
        )
