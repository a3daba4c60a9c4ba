"""An endpoint for the time of a batch: `dp-vllm serve` as a child of ours, on a unix socket that nobody else sees."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import xxhash

from dp_vllm import names, own_files
from dp_vllm.batch.endpoint import OF_BATCHES, Endpoint
from dp_vllm.errors import BadSettings, UserError
from dp_vllm.local import command_line
from dp_vllm.local.process import Program, Running, running
from dp_vllm.local.run_directory import run_directory

_KEYS: Final = (names.API_KEY_VARIABLE, names.ADMIN_API_KEY_VARIABLE, "VLLM_API_KEY")
_END_SECONDS: Final = 20.0
_LAST_LINES: Final = 5


def replicas_of(words: Sequence[str]) -> int:
    """How many there would be. Raises DpVllmError, before anything starts, if the words cannot be served."""
    request = command_line.understand(words, os.environ)
    if request is None or request.dry_run:
        raise BadSettings("after -- a MODEL and flags of `dp-vllm serve` are needed, those that start it")
    return len(request.deployment.replicas)


@contextlib.asynccontextmanager
async def served(words: Sequence[str], replicas: int, target: Path) -> AsyncIterator[Endpoint]:
    """During the block; afterwards nothing of it is left. Raises UserError, in a group, if it ends by itself."""
    name = _name(target)
    directory = run_directory(name, os.environ)
    for path in (directory.path, directory.logs):
        own_files.make_directory(path)
    uds, log = directory.path / "endpoint.sock", directory.logs / "serve.log"
    own = ("--uds", str(uds), "--name", name, "--log-dir", str(directory.logs))
    # Its only client is this process.
    environment = {variable: value for variable, value in os.environ.items() if variable not in _KEYS}
    argv = (sys.executable, "-I", "-m", "dp_vllm", "serve", *words, *own)
    async with running(Program("serve", argv, environment, log)) as program:
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(_demand_life(program, log))
                yield Endpoint(f"unix:{uds}", replicas=replicas, begin_seconds=float("inf"))  # its end is seen
                watch.cancel()
        finally:
            await _end(program)
            with contextlib.suppress(OSError):
                directory.path.rmdir()  # if it came to nothing


def _name(target: Path) -> str:
    """The same for the same file of answers, so that the next run for it cleans up after one that was killed."""
    return f"{OF_BATCHES}{xxhash.xxh3_64_hexdigest(os.fsencode(target.absolute()))[:8]}"


async def _demand_life(program: Running, log: Path) -> None:
    how = await program.exit()
    text = await asyncio.to_thread(log.read_text, errors="replace")
    last = "\n  ".join(text.splitlines()[-_LAST_LINES:])
    raise UserError(f"the endpoint of this batch ended with {how}; its last words, of {log}:\n  {last}")


async def _end(program: Running) -> None:
    """By SIGTERM, so that it removes what it made; what does not end is killed with the block of `running`."""
    if program.ended:
        return
    program.signal(signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_END_SECONDS):
            await program.exit()
