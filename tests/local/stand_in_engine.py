"""A program that starts as an engine does and misbehaves on demand: `stand_in_engine.py --uds PATH [--fault ...]`."""

import argparse
import asyncio
import mmap
import os
import signal
import subprocess
import sys
import time

STUBBORN = "import os, signal, time; signal.signal(15, signal.SIG_IGN); print('stubborn', os.getpid()); time.sleep(600)"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--uds", required=True)
    parser.add_argument("--fail", help="say this and end with status 1")
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--ignore-terms", type=int, default=0, help="how many SIGTERMs have no effect")
    parser.add_argument("--stubborn-child", action="store_true", help="have a child in another session")
    parser.add_argument("--shared-memory", help="map this file, which is there")
    parser.add_argument("--flood-mib", type=int, default=0, help="write this much before being ready")
    return parser.parse_args()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    writer.close()


async def main() -> None:
    given = arguments()
    print("pid", os.getpid(), flush=True)
    if given.fail:
        sys.exit(given.fail)
    if given.stubborn_child:
        subprocess.Popen([sys.executable, "-uc", STUBBORN], start_new_session=True)
    if given.shared_memory:
        with open(given.shared_memory, "r+b") as file:
            mapped = mmap.mmap(file.fileno(), 0)
        print("mapped", len(mapped), flush=True)
    for number in range(given.flood_mib):
        print(f"{number:063}\n" * (1 << 14), flush=True)
    done = asyncio.Event()
    terms = 0

    def on_term() -> None:
        nonlocal terms
        terms += 1
        print(f"SIGTERM {time.monotonic()}", flush=True)
        if terms > given.ignore_terms:
            done.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, on_term)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: print("SIGINT", flush=True))
    print("handlers are set", flush=True)
    if not given.never_ready:
        await asyncio.start_unix_server(answer, given.uds)
    await done.wait()


asyncio.run(main())
