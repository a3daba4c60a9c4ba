"""A node: a machine with containerd, kubelet and kube-proxy, joined to the control plane's network."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import binaries
from .certificates import Certificates
from .control_plane import ADDRESS as CONTROL_PLANE_ADDRESS
from .control_plane import SERVICE_NETWORK, ControlPlane
from .errors import ClusterError
from .machine import Machine

POD_NETWORK = "10.244.0.0/16"
PAUSE_IMAGE = "localhost/pause:1"

_CONTAINERD_CONFIG = """\
version = 2
root = "{root}"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper"]

[plugins."io.containerd.internal.v1.opt"]
path = "{root}/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause_image}"
restrict_oom_score_adj = true  # without CAP_SYS_RESOURCE no score may be lowered, and runc fails with a bare EOF

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni_plugins}"
conf_dir = "{cni_config}"
"""


class Node:
    """`machine` is its own, `hub` the control plane's, to which it is linked."""

    def __init__(
        self, index: int, machine: Machine, hub: Machine, control_plane: ControlPlane, certificates: Certificates
    ) -> None:
        self.name = f"node{index}"
        self.machine = machine
        self.hub = hub
        self.address = f"10.77.0.{10 + index}"
        self.pod_network = f"10.244.{index}.0/24"
        self._control_plane = control_plane
        self._certificates = certificates

    def issue_certificates(self) -> None:
        addresses = (f"DNS:{self.name}", f"IP:{self.address}")
        self._certificates.issue(self.name, f"system:node:{self.name}", groups=["system:nodes"], addresses=addresses)
        self._certificates.issue(f"{self.name}-proxy", "system:kube-proxy")

    def connect(self, nodes: Sequence["Node"]) -> None:
        """Make the link to the bridge on the hub, and routes to the pods of all nodes."""
        self.hub.ip(f"link add {self.name} type veth peer name eth0 netns {self.machine.pid}")
        self.hub.ip(f"link set {self.name} master bridge up")
        self.hub.ip(f"route replace {self.pod_network} via {self.address}")
        self.machine.ip(f"address add {self.address}/24 dev eth0")
        self.machine.ip("link set eth0 up")
        self.machine.ip(f"route add default via {CONTROL_PLANE_ADDRESS}")
        for other in nodes:
            if other is not self:
                self.machine.ip(f"route add {other.pod_network} via {other.address}")

    def crash(self) -> None:
        self.machine.kill()
        with suppress(ClusterError):  # the kernel removes the link too, but later, when it may be a new one
            self.hub.ip(f"link delete {self.name}")

    def start_containerd(self) -> None:
        """Before kubelet, since images may be loaded while the API server starts."""
        folder = self.machine.folder
        root = folder / "containerd"
        cni_config = folder / "cni"
        cni_config.mkdir(exist_ok=True)
        _write_json(cni_config / "10-bridge.conflist", self._cni_config())
        config = folder / "containerd.toml"
        config.write_text(
            _CONTAINERD_CONFIG.format(
                root=root,
                pause_image=PAUSE_IMAGE,
                cni_plugins=binaries.DEBIAN / "usr/lib/cni",
                cni_config=cni_config,
            )
        )
        self.machine.start("containerd", "--config", config)

    def load(self, image: Path) -> None:
        """Import an image, a tar file, into containerd."""
        self.machine.run("ctr", "--connect-timeout=10s", "--namespace=k8s.io", "images", "import", image.absolute())

    def start_kubelet(self) -> None:
        # containerd accepts connections before its service for kubelet is ready, and kubelet ends when told so
        self.machine.wait_for("containerd", "Start streaming server")
        folder = self.machine.folder
        resolv_conf = folder / "resolv.conf"
        resolv_conf.write_text("nameserver 127.0.0.1\n")  # there is no world outside to resolve
        config = folder / "kubelet.json"
        _write_json(config, self._kubelet_config(resolv_conf))
        self.machine.start(
            "kubelet",
            f"--config={config}",
            f"--kubeconfig={self._kubeconfig(self.name)}",
            f"--root-dir={folder / 'kubelet'}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
        )
        self.machine.start(
            "kube-proxy",
            f"--kubeconfig={self._kubeconfig(f'{self.name}-proxy')}",
            "--proxy-mode=iptables",
            f"--cluster-cidr={POD_NETWORK}",
            f"--hostname-override={self.name}",
            # a network namespace may not set these sysctls; 0 leaves them alone
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        )

    def _kubeconfig(self, name: str) -> Path:
        path = self.machine.folder / f"{name}.kubeconfig"
        self._certificates.write_kubeconfig(path, name, self._control_plane.server)
        return path

    def _kubelet_config(self, resolv_conf: Path) -> dict[str, Any]:
        c = self._certificates
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(c.certificate("ca"))},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(c.certificate(self.name)),
            "tlsPrivateKeyFile": str(c.key(self.name)),
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.machine.cgroup}",
            "enforceNodeAllocatable": [],  # nodes share this machine's memory and CPU
            "failCgroupV1": False,
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "clusterDNS": [CONTROL_PLANE_ADDRESS],
            "clusterDomain": "cluster.local",
            "resolvConf": str(resolv_conf),
            "volumePluginDir": str(self.machine.folder / "volume-plugins"),
            "nodeStatusUpdateFrequency": "5s",
            "nodeLeaseDurationSeconds": 12,  # renewed four times as often: see --node-monitor-grace-period
            # a full disk is this machine's, and no image could be pulled again
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        }

    def _cni_config(self) -> dict[str, Any]:
        addresses = {
            "type": "host-local",
            "ranges": [[{"subnet": self.pod_network}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": addresses}
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, portmap]}


def create_network(nodes: Sequence[Node]) -> None:
    """Join all machines by a bridge. The control plane reaches Services through the first node's kube-proxy."""
    hub = nodes[0].hub
    hub.ip("link add bridge type bridge")
    hub.ip(f"address add {CONTROL_PLANE_ADDRESS}/24 dev bridge")
    hub.ip("link set bridge up")
    hub.ip(f"route add {SERVICE_NETWORK} via {nodes[0].address}")
    for node in nodes:
        node.connect(nodes)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1))
