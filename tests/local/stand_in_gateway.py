"""A program that the supervisor takes for a gateway; the test says what is in flight: `in-flight` beside the endpoints.

That file holds one line a replica, `NAME NUMBER`. After SIGTERM it ends when nothing is in flight or time is over. It
says when it was asked for its state.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--endpoints-file", type=Path, required=True)
    parser.add_argument("--admin-socket", required=True)
    parser.add_argument("--listen-fd", type=int, action="append", required=True)
    parser.add_argument("--shutdown-timeout", type=float, default=5)
    parser.add_argument("--fail", help="say this and end with status 1")
    return parser.parse_args()


async def main() -> None:
    given = arguments()
    if given.fail:
        sys.exit(given.fail)

    def in_flight() -> dict[str, int]:
        path = given.endpoints_file.with_name("in-flight")
        lines = path.read_text().splitlines() if path.exists() else []
        return {name: int(number) for name, number in map(str.split, lines)}

    def state() -> bytes:
        print("asked", flush=True)
        counts = in_flight()
        told = json.loads(given.endpoints_file.read_bytes())
        replicas = {
            endpoint["name"]: {"in_flight": counts.get(endpoint["name"], 0), "available": endpoint["state"] == "ready"}
            for endpoint in told["endpoints"]
        }
        total = sum(counts.values())
        return json.dumps({"generation": told["generation"], "in_flight": total, "replicas": replicas}).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = state() if b"/state" in head else str(os.getpid()).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
        writer.close()

    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    for fd in given.listen_fd:
        await asyncio.start_server(answer, sock=socket.socket(fileno=fd))
    await asyncio.start_unix_server(answer, given.admin_socket)
    await told.wait()
    try:
        async with asyncio.timeout(given.shutdown_timeout):
            while sum(in_flight().values()):
                await asyncio.sleep(0.02)
    except TimeoutError:
        print("time is over", flush=True)


asyncio.run(main())
