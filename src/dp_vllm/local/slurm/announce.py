"""Says in a file where a job's endpoint is: whoever sent it to Slurm cannot know on which node and port it is."""

import contextlib
from collections.abc import Iterator

from dp_vllm import own_files
from dp_vllm.local.deployment import Listen
from dp_vllm.local.run_directory import RunDirectory


@contextlib.contextmanager
def announced(listen: Listen, directory: RunDirectory) -> Iterator[None]:
    """Have the endpoint's URL beside the logs during the block, if other machines can reach it by a name."""
    if not listen.url_elsewhere:
        yield
        return
    path = directory.announcement
    # No secret is in it, and colleagues may use the endpoint: who may read it is for the user's umask to say.
    own_files.replace(path, f"{listen.url_elsewhere}/v1\n".encode(), mode=0o666)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
