"""Where a run is: its name, its directory and the address that it listens on, in a Slurm job and outside. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from dp_vllm import names
from dp_vllm.local.deployment import Listen
from dp_vllm.local.flags.settings import Settings
from dp_vllm.local.run_directory import RunDirectory, run_directory
from dp_vllm.local.slurm.allocation import Allocation


def run_name(settings: Settings, job: Allocation | None) -> str:
    """What the run is called: `--name`, else after the Slurm job that it is in and where it listens.

    A job's logs are often where other jobs have theirs, on a node with another port 8000.
    """
    if settings.name is not None:
        return settings.name
    place = settings.uds.name if settings.uds else str(settings.port or ("" if job else names.DEFAULT_PORT))
    return "-".join(filter(None, (job.name if job else "", place)))


def directory_of(settings: Settings, job: Allocation | None, environ: Mapping[str, str]) -> RunDirectory:
    """The run's directory. The nodes of one run have a directory each and log to one place. Raises DpVllmError."""
    name = run_name(settings, job)
    directory = run_directory(name, environ, log_dir=settings.log_dir)
    if job is None or not job.several:
        return directory
    return replace(run_directory(f"{name}-{job.node}", environ), logs=directory.logs)


def listen_of(settings: Settings, job: Allocation | None) -> Listen:
    """Where the endpoint is to listen."""
    return Listen(
        settings.host,
        settings.port or names.DEFAULT_PORT,
        settings.uds.absolute() if settings.uds else None,
        tls=settings.ssl_certfile is not None,
        # Whoever asks Slurm for a few GPUs cannot know who else has some of that node.
        or_next=job is not None and settings.port is None,
        node=job.node if job else "",
    )
