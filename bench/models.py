"""What many models cost the operator: seconds until all pods are made and all are Ready, CPU, memory, idle writes.

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
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import psutil
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import programs
from cluster.audit import Audit, Call
from cluster.cluster import Cluster
from kubelet import Kubelet

from dp_vllm import crd, names

NAMESPACE: Final = "bench"
LOOK_SECONDS: Final = 3.0
"""Between looks at how many are Ready: each costs the machine something too."""
QUIET_SECONDS: Final = 15.0


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


def ready(cluster: Cluster) -> int:
    """How many models are."""
    path = '{.items[*].status.conditions[?(@.type=="Ready")].status}'
    return cluster.kubectl("get", names.PLURAL, f"--namespace={NAMESPACE}", f"--output=jsonpath={path}").count("True")


def wait_until_ready(cluster: Cluster, wanted: int) -> float:
    """Seconds until so many models are."""
    began = time.monotonic()
    while (now := ready(cluster)) < wanted:
        print(f"\r{now} of {wanted} Ready, {time.monotonic() - began:.0f} s", end="", file=sys.stderr, flush=True)
        time.sleep(LOOK_SECONDS)
    print(file=sys.stderr)
    return time.monotonic() - began


def making(audit: Audit) -> tuple[float, float]:
    """Seconds from the first DPModel to the last, and to the operator's last pod."""
    models, pods = [], []
    for call in audit.calls():
        if call.verb == "create" and call.code == 201 and call.namespace == NAMESPACE:
            at = datetime.fromisoformat(call.at).timestamp()
            if call.resource == names.PLURAL:
                models.append(at)
            elif call.resource == "pods" and _is_the_operator(call):
                pods.append(at)
    return max(models) - min(models), max(pods) - min(models)


def writes(audit: Audit) -> Counter[str]:
    """What the operator has written, but for its Lease."""
    calls = (call for call in audit.calls() if call.writes and _is_the_operator(call))
    return Counter(f"{call.verb} {call.resource}" for call in calls if call.resource != "leases")


def wait_for_quiet(cluster: Cluster) -> None:
    """Until the operator has written nothing for a while: that all are Ready is not the last that it says."""
    audit = Audit.from_now(cluster.audit_log)
    time.sleep(QUIET_SECONDS)
    while writes(audit):
        audit = Audit.from_now(cluster.audit_log)
        time.sleep(QUIET_SECONDS)


def main() -> None:
    """Print the figures."""
    options = parser().parse_args()
    with tempfile.TemporaryDirectory() as folder, standing(options, Path(folder)) as (cluster, process):
        before = process.cpu_times()
        audit = Audit.from_now(cluster.audit_log)
        objects = "---\n".join(yaml.safe_dump(model(n, options.replicas)) for n in range(options.models))
        began = time.monotonic()
        cluster.kubectl("create", "--filename=-", stdin=objects)
        wait_until_ready(cluster, options.models)
        settled = time.monotonic() - began
        created, made = making(audit)
        wait_for_quiet(cluster)
        busy = process.cpu_times()
        memory = process.memory_info().rss / 2**20
        print(f"{options.models} models with {options.replicas} replicas each")
        print(f"all models made by kubectl         {created:7.1f} s")
        print(f"all their replica pods made        {made:7.1f} s")
        print(f"all models Ready                   {settled:7.1f} s")
        print(f"operator's CPU until then          {_cpu(busy) - _cpu(before):7.1f} s")
        print(f"operator's memory                  {memory:7.0f} MB")
        if options.idle_seconds:
            audit = Audit.from_now(cluster.audit_log)
            time.sleep(options.idle_seconds)
            idle = writes(audit)
            used = _cpu(process.cpu_times()) - _cpu(busy)
            which = ", ".join(f"{times} {what}" for what, times in idle.items())
            print(f"operator's CPU in {options.idle_seconds:3g} idle s     {used:7.1f} s")
            print(f"its writes then, Lease left out    {sum(idle.values()):7d} {which}")
            print(f"its memory after that              {process.memory_info().rss / 2**20:7.0f} MB")


def _is_the_operator(call: Call) -> bool:
    return call.agent.startswith("dp-vllm/")


def _cpu(times: Any) -> float:
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
