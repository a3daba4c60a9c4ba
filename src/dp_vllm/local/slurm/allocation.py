"""What Slurm has given to the job step that this process belongs to. Pure: the environment goes in.

Slurm's variables are described under OUTPUT ENVIRONMENT VARIABLES in srun(1).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from dp_vllm.errors import UserError

_PIECE: Final = re.compile(r"\[([^\]]*)\]")
_SPECIAL_STEPS: Final = 4294967290
"""Steps from this number on are no srun's: the batch script, the shell of salloc (SLURM_INTERACTIVE_STEP)."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """One job step, as one of its nodes sees it."""

    job: str
    node: str
    """This node's name in Slurm."""
    step: str = ""
    """Empty in a batch script, outside of srun."""
    nodes: tuple[str, ...] = ()
    """Where this step has a task, this node among them."""
    rank: int = 0
    """This node's place among them."""
    job_nodes: int = 1

    @property
    def several(self) -> bool:
        """Whether this run spans nodes."""
        return len(self.nodes) > 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def name(self) -> str:
        """What a run of this step is called."""
        return f"job-{self.job}.{self.step}" if self.step else f"job-{self.job}"


def allocation(environ: Mapping[str, str]) -> Allocation | None:
    """The step of this process; None outside of Slurm, and in a shell that has a job but is not on its nodes.

    Raises UserError if Slurm started several tasks on a node: one process runs all replicas of a node.
    """
    job, node = environ.get("SLURM_JOB_ID", ""), environ.get("SLURMD_NODENAME", "")
    if not job or not node:
        return None
    job_nodes = _number(environ, "SLURM_JOB_NUM_NODES", 1)
    step = environ.get("SLURM_STEP_ID", "")
    if not step.isdigit() or int(step) >= _SPECIAL_STEPS:
        return Allocation(job, node, nodes=(node,), job_nodes=job_nodes)
    nodes = tuple(hosts(environ.get("SLURM_STEP_NODELIST", node)))
    tasks = _number(environ, "SLURM_STEP_NUM_TASKS", 1)
    if tasks > len(nodes):
        raise UserError(
            f"Slurm started {tasks} tasks on {_counted(len(nodes))}, and one runs all replicas of a node: "
            "give srun --ntasks-per-node=1"
        )
    return Allocation(job, node, step, nodes, _number(environ, "SLURM_NODEID", 0), job_nodes)


def doubts(environ: Mapping[str, str], found: Allocation | None) -> tuple[str, ...]:
    """What is probably not as it was meant."""
    job = environ.get("SLURM_JOB_ID", "")
    if job and found is None:
        return (
            f"this shell has the Slurm job {job} but is not on one of its nodes, so everything runs here and without "
            "the job's GPUs; put srun before the command",
        )
    if found and not found.step and found.job_nodes > 1:
        return (
            f"the Slurm job {job} has {found.job_nodes} nodes, and this run is on {found.node} alone; "
            "for one endpoint over all put srun --ntasks-per-node=1 before the command",
        )
    return ()


def gpus_of_step(environ: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Variables that name GPUs of this step and, after it, of the job on this node: with their indexes on the node."""
    for variable in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS"):
        names = tuple(one.strip() for one in environ.get(variable, "").split(","))
        if all(map(str.isdigit, names)):
            yield variable, names


def advice_on_gpus(environ: Mapping[str, str]) -> str:
    """What is said if a job's GPUs are too few; empty outside of one."""
    job, node = environ.get("SLURM_JOB_ID"), environ.get("SLURMD_NODENAME")
    return f", all that Slurm gave the job {job} on {node}; ask it for more with --gpus-per-node" if node else ""


def hosts(listed: str) -> Iterator[str]:
    """The names in a node list, `gpu[01-03,7],login`, as `scontrol show hostnames` prints them."""
    for piece in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", listed):
        yield from _expanded(piece)


def _expanded(piece: str) -> Iterator[str]:
    found = _PIECE.search(piece)
    if found is None:
        yield piece
        return
    for span in found[1].split(","):
        first, _, last = span.partition("-")
        for number in range(int(first), int(last or first) + 1):
            yield from _expanded(f"{piece[: found.start()]}{number:0{len(first)}}{piece[found.end() :]}")


def _number(environ: Mapping[str, str], name: str, otherwise: int) -> int:
    text = environ.get(name, "")
    return int(text) if text.isdigit() else otherwise


def _counted(nodes: int) -> str:
    return "one node" if nodes == 1 else f"{nodes} nodes"
