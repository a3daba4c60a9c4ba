"""What many models cost the operator: seconds until all pods are made and Ready, its CPU and memory, its idle writes.

    python bench/models.py --models 200 --replicas 4 --idle-seconds 300

A real API server with its controllers and scheduler, nodes that are played (tests/kubelet), one operator. All DPModels
are created at once. The API server and the played nodes share the machine with the operator, so the times are theirs
too; the operator's own CPU time is told apart. (A file called operator.py would hide the standard library's.)
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import programs
from cluster.audit import Audit
from cluster.cluster import Cluster
from kubelet import Kubelet

from dp_vllm import crd, names

NAMESPACE: Final = "bench"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--models", type=int, default=200)
    made.add_argument("--replicas", type=int, default=4)
    made.add_argument("--idle-seconds", type=float, default=300.0, help="watched after all is Ready; default: 300")
    return made


def model(number: int, replicas: int) -> dict[str, Any]:
    """One DPModel with a GPU a replica."""
    return {
        "apiVersion": f"{names.API_GROUP}/{names.API_VERSION}",
        "kind": names.KIND,
        "metadata": {"name": f"m{number:03d}", "namespace": NAMESPACE},
        "spec": {"model": "demo/model", "replicas": replicas},
    }


@contextmanager
def standing(options: argparse.Namespace, folder: Path) -> Iterator[tuple[Cluster, psutil.Process]]:
    """A cluster with enough played nodes, and the operator."""
    with Cluster() as cluster:
        cluster.kubectl("apply", "--server-side", "--filename=-", stdin=crd.as_yaml())
        cluster.kubectl("wait", "--for=condition=Established", f"crd/{crd.NAME}", "--timeout=30s")
        cluster.kubectl("create", "namespace", NAMESPACE)
        cluster.kubectl("create", "clusterrole", "dp-vllm-gateway", "--verb=get,list,watch", "--resource=pods")
        with Kubelet(cluster.kubeconfig, NAMESPACE) as kubelet:
            for number in range(-(-options.models * (options.replicas + 2) // 100)):
                kubelet.add_node(f"node{number}", gpus=110)
            with programs.operator(folder, cluster.kubeconfig, "--namespace", NAMESPACE) as operator:
                yield cluster, psutil.Process(operator.pid)


def count(cluster: Cluster, what: str, path: str) -> Callable[[], int]:
    """How often a word stands in a kubectl listing."""
    return lambda: (
        cluster.kubectl("get", what, f"--namespace={NAMESPACE}", f"--output=jsonpath={path}").split().count("True")
    )


def wait_for(seen: Callable[[], int], wanted: int, what: str) -> float:
    """Seconds until so many are seen."""
    began = time.monotonic()
    while (now := seen()) < wanted:
        print(f"\r{what}: {now} of {wanted}, {time.monotonic() - began:.0f} s", end="", file=sys.stderr, flush=True)
        time.sleep(0.5)
    print(file=sys.stderr)
    return time.monotonic() - began


def writes(audit: Audit, seconds: float) -> Counter[str]:
    """What the operator writes in so long, but for its Lease."""
    time.sleep(seconds)
    calls = (call for call in audit.calls() if call.writes and call.agent.startswith("dp-vllm/"))
    return Counter(f"{call.verb} {call.resource}" for call in calls if call.resource != "leases")


def main() -> None:
    """Print the figures."""
    options = parser().parse_args()
    with tempfile.TemporaryDirectory() as folder, standing(options, Path(folder)) as (cluster, process):
        before = process.cpu_times()
        began = time.monotonic()
        objects = "---\n".join(yaml.safe_dump(model(n, options.replicas)) for n in range(options.models))
        cluster.kubectl("create", "--filename=-", stdin=objects)
        created = time.monotonic() - began
        pods = count(cluster, "pods", '{.items[*].status.conditions[?(@.type=="PodScheduled")].status}')
        wait_for(pods, options.models * (options.replicas + 2), "pods on nodes")
        made = time.monotonic() - began
        ready = count(cluster, names.PLURAL, '{.items[*].status.conditions[?(@.type=="Ready")].status}')
        wait_for(ready, options.models, "models Ready")
        settled = time.monotonic() - began
        time.sleep(10)  # the last status writes
        busy = process.cpu_times()
        memory = process.memory_info().rss / 2**20
        print(f"{options.models} models with {options.replicas} replicas each")
        print(f"all objects created by kubectl     {created:7.1f} s")
        print(f"all pods made and on nodes         {made:7.1f} s")
        print(f"all models Ready                   {settled:7.1f} s")
        print(f"operator's CPU until then          {_cpu(busy) - _cpu(before):7.1f} s")
        print(f"operator's memory                  {memory:7.0f} MB")
        if options.idle_seconds:
            idle = writes(Audit.from_now(cluster.audit_log), options.idle_seconds)
            used = _cpu(process.cpu_times()) - _cpu(busy)
            which = ", ".join(f"{count} {what}" for what, count in idle.items())
            print(f"operator's CPU in {options.idle_seconds:3g} idle s     {used:7.1f} s")
            print(f"its writes then, Lease left out    {sum(idle.values()):7d} {which}")
            print(f"its memory after that              {process.memory_info().rss / 2**20:7.0f} MB")


def _cpu(times: Any) -> float:
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
