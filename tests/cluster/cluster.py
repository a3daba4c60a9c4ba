"""A cluster: its state folder, its life from `up` to `down`, and what may be done to it in between."""

import json
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Self

from . import binaries, images, processes
from .certificates import Certificates
from .control_plane import ADDRESS, ControlPlane, Ports
from .errors import ClusterError
from .machine import Host, Machine
from .node import PAUSE_IMAGE, Node, create_network
from .prerequisites import why_none
from .state import cgroup_prefix, claim, default_state, destroy, remove_stale, unlock


class Cluster:
    """A real Kubernetes.

    Without nodes it is a control plane on free ports of 127.0.0.1, for any user. With nodes (as root) the control plane
    and each node is a machine of its own, made of namespaces. Either way `kubeconfig` works from here.
    """

    def __init__(self, nodes: int = 0, gpus: int = 0, state: Path | None = None) -> None:
        """`gpus` is how many nvidia.com/gpu each node has; `state` is the folder that `up` makes and `down` removes."""
        self.state = (state or default_state(f"{os.getpid()}-{id(self):x}")).absolute()
        self.gpus = gpus
        self.kubeconfig = self.state / "kubeconfig"
        self._lock: IO[str] | None = None
        self._certificates = Certificates(self.state / "certificates")
        folder = self.state / "control-plane"
        self.nodes: list[Node] = []
        if nodes:
            cgroup = cgroup_prefix(self.state)
            machine = Machine(folder, f"{cgroup}-control-plane")
            self.control_plane = ControlPlane(machine, self._certificates, ADDRESS, Ports())
            for index in range(1, nodes + 1):
                node_machine = Machine(self.state / f"node{index}", f"{cgroup}-node{index}")
                self.nodes.append(Node(index, node_machine, machine, self.control_plane, self._certificates))
        else:
            self.control_plane = ControlPlane(Host(folder), self._certificates, "127.0.0.1", Ports.free())

    @classmethod
    def at(cls, state: Path) -> Self:
        """The cluster that is up with this state folder."""
        try:
            settings = json.loads((state / "cluster.json").read_text())
        except FileNotFoundError:
            raise ClusterError(f"no cluster is up in {state}") from None
        return cls(settings["nodes"], settings["gpus"], state)

    # Life

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *error: object) -> None:
        self.down()

    def up(self) -> None:
        """Start everything and wait until nodes are Ready and pods can be made; clean up if that fails."""
        self._check_prerequisites()
        remove_stale()
        self._lock = claim(self.state)
        try:
            settings = {"nodes": len(self.nodes), "gpus": self.gpus}
            (self.state / "cluster.json").write_text(json.dumps(settings))
            self._start()
        except BaseException:
            self.down()
            raise

    def detach(self) -> None:
        """Let the cluster live on when this process ends."""
        (self.state / "detached").touch()

    def down(self) -> None:
        """End all processes and remove all traces; nothing happens if it is not up."""
        destroy(self.state)
        for machine in self._machines():
            machine.forget()
        unlock(self.state, self._lock)
        self._lock = None

    # Use

    @property
    def audit_log(self) -> Path:
        """What the API server was asked for, see `audit`."""
        return self.control_plane.audit_log

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl and return its output."""
        command = ["kubectl", f"--kubeconfig={self.kubeconfig}", *arguments]
        return processes.run(command, environment=self.control_plane.host.environment(), stdin=stdin)

    def login(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig with which one is this user, of whom the cluster knows no more than what RBAC says."""
        name = f"user-{uuid.uuid4().hex[:8]}"
        self._certificates.issue(name, user, groups=groups)
        path = self.state / f"{name}.kubeconfig"
        kubeconfig = json.loads(self.kubeconfig.read_text())
        self._certificates.write_kubeconfig(path, name, kubeconfig["clusters"][0]["cluster"]["server"])
        return path

    def server_certificate(self) -> tuple[Path, Path]:
        """Certificate and key of a server at 127.0.0.1 that the API server trusts."""
        name = f"server-{uuid.uuid4().hex[:8]}"
        self._certificates.issue(name, name, addresses=["IP:127.0.0.1"])
        return self._certificates.certificate(name), self._certificates.key(name)

    def command(self, *arguments: str, node: str = "") -> tuple[list[str], dict[str, str]]:
        """The command, and its environment, that runs `arguments` on the control plane's machine or a node's."""
        machine = self.node(node).machine if node else self.control_plane.host
        settings = {"PATH": binaries.search_path(), "NO_PROXY": "*", "no_proxy": "*"}
        settings["KUBECONFIG"] = str(self.control_plane.kubeconfig("admin"))
        return machine.enter(*arguments), os.environ | settings

    def run(self, *arguments: str, node: str = "") -> str:
        """Run a command, kubectl or helm for example, inside the cluster, and return its output."""
        command, environment = self.command(*arguments, node=node)
        return processes.run(command, environment=environment)

    def load(self, image: Path) -> None:
        """Import an image, a tar file, into all nodes."""
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda node: node.load(image), self.nodes))

    def expose(self, host: str, port: int, local_port: int = 0) -> int:
        """Make an IP address and port of the cluster (a pod's, a Service's) reachable at a port of 127.0.0.1 here."""
        try:
            listener = socket.create_server(("127.0.0.1", local_port))
        except OSError as error:
            raise ClusterError(f"127.0.0.1:{local_port}: {error.strerror}") from None
        with listener:
            descriptor = listener.fileno()
            local_port = listener.getsockname()[1]
            script = Path(__file__).with_name("relay.py")
            machine = self.control_plane.host
            command = machine.enter_network(sys.executable, "-I", script, str(descriptor), host, str(port))
            machine.spawn(f"relay-{local_port}", command, pass_fds=(descriptor,))
        return local_port

    def conceal(self, local_port: int) -> None:
        """Undo what `expose` has done."""
        self.control_plane.host.end(f"relay-{local_port}")

    # Faults

    def node(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise ClusterError(f"no node {name!r}; there are: {', '.join(n.name for n in self.nodes) or 'none'}")

    def crash(self, name: str) -> None:
        """A node loses its power: all its processes and its link are gone at once. Its disk stays."""
        self.node(name).crash()

    def start(self, name: str) -> None:
        """A node that crashed starts again."""
        node = self.node(name)
        if node.machine.is_up():
            raise ClusterError(f"{name} is running")
        before = self._heartbeat(node)
        time.sleep(1)  # its next heartbeat must differ, and they are in seconds
        node.machine.boot()
        node.connect(self.nodes)
        node.start_containerd()
        node.start_kubelet()
        self._wait_ready(node, before)

    def freeze(self, name: str) -> None:
        """A node's kubelet hangs; its pods go on."""
        os.kill(self.node(name).machine.find("kubelet"), signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        os.kill(self.node(name).machine.find("kubelet"), signal.SIGCONT)

    # How it starts

    def _check_prerequisites(self) -> None:
        if self.nodes and any(self.state.is_relative_to(own) for own in ("/run", "/var/lib", "/var/log")):
            raise ClusterError(f"{self.state}: not there, nodes have a /run, /var/lib and /var/log of their own")
        if len(bytes(self.state)) > 60:
            raise ClusterError(f"{self.state}: too long for the Unix sockets that kubelet makes below it")
        if reason := why_none(nodes=bool(self.nodes)):
            raise ClusterError(reason)

    def _start(self) -> None:
        self._certificates.create()
        self.control_plane.issue_certificates()
        for node in self.nodes:
            node.issue_certificates()
        for machine in self._machines():
            machine.boot()
        if self.nodes:
            create_network(self.nodes)
            server = f"https://127.0.0.1:{self.expose(ADDRESS, self.control_plane.ports.api)}"
        else:
            server = self.control_plane.server
        self._certificates.write_kubeconfig(self.kubeconfig, "admin", server)
        self.control_plane.start_api()
        if self.nodes:  # containerd, with its first image, while the API starts
            for node in self.nodes:
                node.start_containerd()
            images.write_pause_image(self.state / "pause.tar", PAUSE_IMAGE)
            self.load(self.state / "pause.tar")
        self.control_plane.wait_ready(server)
        self.control_plane.start_controllers()
        if self.nodes:
            self.control_plane.start_dns()
        for node in self.nodes:
            node.start_kubelet()
        for node in self.nodes:
            self._wait_ready(node)
        self.kubectl("wait", "--for=create", "serviceaccount/default", "--namespace=default", "--timeout=60s")
        for machine in self._machines():
            machine.check()

    def _wait_ready(self, node: Node, heartbeat: str = "", timeout_seconds: float = 60) -> None:
        """Wait until kubelet says Ready, and not just at `heartbeat`, the last word of a kubelet that crashed."""
        deadline = time.monotonic() + timeout_seconds
        while self._heartbeat(node) in ("", heartbeat):
            node.machine.check()
            if time.monotonic() > deadline:
                raise ClusterError(f"{node.name} is not Ready after {timeout_seconds} s; see {node.machine.logs}")
            time.sleep(0.2)
        if self.gpus:  # both at once: kubelet would take seconds to copy the capacity
            count = {"nvidia.com/gpu": str(self.gpus)}
            patch = json.dumps({"status": {"capacity": count, "allocatable": count}})
            self.kubectl("patch", "node", node.name, "--subresource=status", "--type=merge", f"--patch={patch}")

    def _heartbeat(self, node: Node) -> str:
        """When kubelet last said that the node is Ready, empty if it did not or says otherwise."""
        status = self.kubectl("get", "node", node.name, "--ignore-not-found", "--output=jsonpath={.status.conditions}")
        conditions = json.loads(status or "[]")
        return next((c["lastHeartbeatTime"] for c in conditions if (c["type"], c["status"]) == ("Ready", "True")), "")

    def _machines(self) -> list[Host]:
        return [self.control_plane.host, *(node.machine for node in self.nodes)]
