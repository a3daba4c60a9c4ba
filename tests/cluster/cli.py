"""What the command line offers."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import binaries
from .cluster import Cluster
from .errors import ClusterError
from .given import given_cluster
from .state import default_state, remove_stale


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        _do(options)
    except (ClusterError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _do(options: argparse.Namespace) -> None:
    state: Path = options.state.absolute()
    match options.action:
        case "deps":
            binaries.fetch_debian_packages()
        case "build":
            binaries.build(options.part or binaries.PARTS)
        case "prepare":
            _prepare()
        case "up":
            cluster = Cluster(options.nodes, options.gpus, state)
            cluster.up()
            cluster.detach()
            print(f"export KUBECONFIG={cluster.kubeconfig}")
        case "down":
            Cluster(state=state).down()
            remove_stale()
        case _:
            _do_with(Cluster.at(state), options)


def _do_with(cluster: Cluster, options: argparse.Namespace) -> None:
    """What can be done with a cluster that is up."""
    match options.action:
        case "kubeconfig":
            print(cluster.kubeconfig)
        case "run":
            command, environment = cluster.command(*options.command, node=options.node)
            os.execvpe(command[0], command, environment)
        case "crash" | "start" | "freeze" | "thaw" as fault:
            getattr(cluster, fault)(options.node)
        case "expose":
            host, _, port = options.target.rpartition(":")
            cluster.expose(host, int(port), options.local_port)
        case "load":
            cluster.load(options.image)


def _prepare() -> None:
    """Everything for a control plane; where it cannot be had, only CI must have it."""
    if given_cluster():
        return
    try:
        binaries.fetch_debian_packages()
        binaries.build(["etcd", "plane", "helm"])
    except ClusterError as reason:
        if os.environ.get("CI"):
            raise
        print(f"the tests before a Kubernetes control plane will not be run: {reason}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python tests/cluster", description="A real Kubernetes for tests.")
    parser.add_argument("--state", type=Path, default=default_state("default"), metavar="FOLDER",
                        help="where the cluster keeps its files (default: %(default)s)")  # fmt: skip
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    actions.add_parser("deps", help="unpack the Debian packages that are needed into the cache")
    build = actions.add_parser("build", help="build Kubernetes, CoreDNS and Helm into the cache")
    build.add_argument("part", nargs="*", choices=[*binaries.PARTS, []], help="only these parts")
    actions.add_parser("prepare", help="do what tests before a control plane need of both, or say why it cannot be")
    up = actions.add_parser("up", help="start a cluster")
    up.add_argument("--nodes", type=int, default=0, help="0 is a control plane only, and needs no root")
    up.add_argument("--gpus", type=int, default=0, help="nvidia.com/gpu of each node")
    actions.add_parser("down", help="end it, and any whose process was killed")
    actions.add_parser("kubeconfig", help="print where the kubeconfig is")
    run = actions.add_parser("run", help="run a command inside the cluster: run [--node NODE] -- COMMAND...")
    run.add_argument("--node", default="", help="on this node (default: the control plane's machine)")
    run.add_argument("command", nargs="+")
    for fault, meaning in {
        "crash": "end a node's processes at once, as if power were cut",
        "start": "start a node that crashed",
        "freeze": "stop a node's kubelet; its pods go on",
        "thaw": "let it go on",
    }.items():
        actions.add_parser(fault, help=meaning).add_argument("node")
    expose = actions.add_parser("expose", help="reach an address of the cluster at a port of 127.0.0.1")
    expose.add_argument("local_port", type=int)
    expose.add_argument("target", metavar="HOST:PORT")
    load = actions.add_parser("load", help="import an image, a tar file, into all nodes")
    load.add_argument("image", type=Path)
    return parser
