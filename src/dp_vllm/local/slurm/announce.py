"""Says in a file where a job's endpoint is: whoever sent it to Slurm cannot know on which node and port it is."""

import contextlib
from collections.abc import Iterator

from dp_vllm.local.deployment import Listen
from dp_vllm.local.run_directory import RunDirectory


@contextlib.contextmanager
def announced(listen: Listen, directory: RunDirectory) -> Iterator[None]:
    """Have the endpoint's URL beside the logs during the block, if other machines can reach it by a name."""
    if not listen.url_elsewhere:
        yield
        return
    path = directory.announcement
    new = path.with_name(f".{path.name}")
    new.write_text(f"{listen.url_elsewhere}/v1\n")
    new.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
