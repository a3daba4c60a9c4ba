"""What a streamed chunk costs the simulated engine: CPU seconds of its process over the chunks that its clients read.

    python bench/sim.py --streams 1000 --tokens 250 --step 0.02

One engine, one reading process beside it. A run is valid if every stream got all its tokens.
"""

import argparse
import asyncio
import functools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

import psutil
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import programs


class Reader(asyncio.Protocol):
    """Sends one request and counts what comes back; it parses nothing, so that it costs little beside the engine."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._tail = b""
        self.chunks = 0
        self.ended: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.chunks += data.count(b"data: {")
        if b"[DONE]" in self._tail + data[-20:]:
            self.ended.set_result(time.monotonic())
            self._transport.close()
        self._tail = data[-20:]

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(error or ConnectionError("cut"))


def request(tokens: int, number: int) -> bytes:
    """One streamed chat, as bytes."""
    chat = [{"role": "user", "content": f"Number {number}"}]
    body = json.dumps({"messages": chat, "stream": True, "max_tokens": tokens}).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: sim\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )


async def read_all(streams: int, tokens: int, path: str) -> tuple[int, float]:
    """Run all streams at once: chunks read, seconds from the first start to the last end."""
    loop = asyncio.get_running_loop()
    start = time.monotonic()
    readers = []
    for number in range(streams):
        _transport, reader = await loop.create_unix_connection(functools.partial(Reader, request(tokens, number)), path)
        readers.append(reader)
    ends = await asyncio.gather(*(reader.ended for reader in readers))
    return sum(reader.chunks for reader in readers), max(ends) - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=250)
    parser.add_argument("--step", type=float, default=0.02, help="seconds between two tokens of a stream")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uds = f"{folder}/sim"
        flags = ["--uds", uds, "--max-num-seqs", str(given.streams), "--disable-uvicorn-access-log"]
        flags += ["--sim-decode-step-seconds", str(given.step), "--sim-decode-growth-seconds", "0"]
        flags += ["--sim-prefill-tokens-per-second", "1000000"]
        argv = programs.python("-m", "dp_vllm.sim", "bench/model", *flags)
        log = Path(folder) / "log"
        with programs.running(argv, log, ready=lambda: "Uvicorn running" in log.read_text()) as engine:
            process = psutil.Process(engine.pid)
            before = sum(process.cpu_times()[:2])
            chunks, seconds = uvloop.run(read_all(given.streams, given.tokens, uds))
            used = sum(process.cpu_times()[:2]) - before
            memory = process.memory_info().rss / 2**20
    wanted = given.streams * (given.tokens + 1)
    print(f"streams {given.streams}  chunks {chunks} of {wanted}  {chunks / seconds:,.0f} chunks/s in {seconds:.2f} s")
    print(f"engine: {used / chunks * 1e6:.2f} us CPU a chunk, {used / seconds:.0%} of a core, {memory:.0f} MB")
    return 0 if chunks == wanted else 1


if __name__ == "__main__":
    sys.exit(main())
