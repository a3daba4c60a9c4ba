"""Nodes without machines, until this program is ended: `KUBECONFIG=... python tests/kubelet --nodes 100 --gpus 8`."""

import argparse
import os
import signal
import sys
from pathlib import Path

if not __package__:  # run by path: sys.path[0] is this folder, but its modules belong to a package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from kubelet import Kubelet


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/kubelet", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=8, help="nvidia.com/gpu of each node")
    parser.add_argument("--namespace", default="", help="only for the pods of this one")
    options = parser.parse_args()
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with Kubelet(Path(os.environ["KUBECONFIG"]), options.namespace) as kubelet:
        for index in range(1, options.nodes + 1):
            kubelet.add_node(f"node{index}", options.gpus)
        print(f"{options.nodes} nodes are ready", flush=True)
        signal.sigwait(signals)


if __name__ == "__main__":
    main()
