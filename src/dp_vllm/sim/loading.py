"""The model's load, which loads nothing: its phases take their share of the time and log what vLLM logs."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from dp_vllm.sim.host import Host
from dp_vllm.sim.options import Options

_log = logging.getLogger("dp_vllm.sim")
_SHARDS: Final = 4
_CAPTURES: Final = 5
_OUT_OF_MEMORY: Final = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"
    " of which 1.06 GiB is free. (This failure is simulated.)"
)


class LoadError(Exception):
    """The load failed, as the fault `fail-at-boot` says."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


async def load(options: Options) -> None:
    """Take `load_seconds`: a fifth to download, two to load weights, one each to compile and to capture graphs.

    On a host whose engines share what they have (`--sim-host`) it takes less where one has been before, and compiling
    takes more where several do it at once.
    """
    fifth, limits = options.load_seconds / 5, options.limits
    host = Host(options.host, options.host_cores) if options.host else None
    begun = time.monotonic()

    async def take(what: str, seconds: float) -> float:
        since = time.monotonic()
        if host is None:
            await asyncio.sleep(seconds)
        else:
            await (host.compute if what == "compiled" else host.fetch)(what, seconds)
        return time.monotonic() - since

    _log.info("Starting to load model %s...", options.model)
    seconds = await take("downloaded", fifth)
    _log.info("Time spent downloading weights for %s: %.6f seconds", options.model, seconds)
    reading = time.monotonic()
    for shard in range(1, _SHARDS + 1):
        await take(f"read-{shard}", 2 * fifth / _SHARDS)
        share = 100 * shard // _SHARDS
        _log.info("Loading safetensors checkpoint shards: %3d%% Completed | %d/%d", share, shard, _SHARDS)
        _fail_if_told(options)
    _log.info("Loading weights took %.2f seconds", time.monotonic() - reading)
    _log.info("Model loading took 0.0000 GiB memory and %.6f seconds", time.monotonic() - begun)
    _log.info("Using cache directory: %s for vLLM's torch.compile", options.host or "none")
    seconds = await take("compiled", fifth)
    _log.info("torch.compile took %.2f s in total", seconds)
    tokens, longest = limits.blocks * limits.block_size, limits.max_model_len
    _log.info("GPU KV cache size: %s tokens", f"{tokens:,}")
    _log.info("Maximum concurrency for %s tokens per request: %.2fx", f"{longest:,}", tokens / longest)
    for share in range(_CAPTURES):
        _log.info("Capturing CUDA graphs (decode, FULL): %3d%%", 100 * share // _CAPTURES)
        await asyncio.sleep(fifth / _CAPTURES)
    _log.info("Graph capturing finished in %.0f secs, took 0.00 GiB", fifth)
    _log.info("init engine (profile, create kv cache, warmup model) took %.2f seconds", seconds + fifth)


def _fail_if_told(options: Options) -> None:
    for fault in options.faults:
        if fault.kind == "fail-at-boot":
            raise LoadError(fault.message or _OUT_OF_MEMORY, 1 if fault.status is None else fault.status)
