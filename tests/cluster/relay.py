"""Carry TCP connections from a listening socket, made outside, to an address inside a cluster's network.

Run as `python relay.py DESCRIPTOR HOST PORT` in the network namespace of the cluster: a socket stays in the namespace
in which it was made, so the listener that it inherits as DESCRIPTOR still accepts connections outside. Run as
`python relay.py listen HOST PORT`, in a pod, it listens on port 8000.
"""

import asyncio
import socket
import sys


async def relay(listener: socket.socket, host: str, port: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        far_writer.close()
        writer.close()

    async with await asyncio.start_server(serve, sock=listener) as server:
        await server.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


if __name__ == "__main__":
    _, source, host, port = sys.argv
    inside = source == "listen"
    listener = socket.create_server(("", 8000)) if inside else socket.socket(fileno=int(source))
    asyncio.run(relay(listener, host, int(port)))
