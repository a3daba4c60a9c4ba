"""A small real engine with WebSockets: `python realtime_engine.py PORT|PATH` listens on a port, or a unix socket.

It echoes. The texts `headers`, `close CODE REASON`, `send SIZE` and `die` are orders. How each socket ended is printed.
"""

import json
import os
import sys

from aiohttp import WSMsgType, web


async def health(request: web.Request) -> web.Response:
    return web.Response()


async def models(request: web.Request) -> web.Response:
    return web.json_response({"data": [{"id": "demo/model"}]})


async def refuse(request: web.Request) -> web.Response:
    return web.Response(status=int(request.match_info["status"]))


async def realtime(request: web.Request) -> web.WebSocketResponse:
    wanted = request.query.get("speak", "")
    ours = web.WebSocketResponse(protocols=(wanted,) if wanted else (), max_msg_size=0)
    await ours.prepare(request)
    print("opened", flush=True)
    async for message in ours:
        if message.type is WSMsgType.BINARY:
            await ours.send_bytes(message.data)
            continue
        order, _, rest = message.data.partition(" ")
        if order == "headers":
            await ours.send_str(json.dumps(dict(request.headers)))
        elif order == "close":
            code, _, reason = rest.partition(" ")
            await ours.close(code=int(code), message=reason.encode())
        elif order == "send":
            await ours.send_bytes(bytes(int(rest)))
        elif order == "die":
            os._exit(1)
        else:
            await ours.send_str(message.data)
    print("closed", ours.close_code, flush=True)
    return ours


def main(place: str) -> None:
    app = web.Application()
    app.router.add_get("/health", health)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/v1/realtime", realtime)
    app.router.add_get("/refuse/{status}", refuse)
    if place.isdigit():
        web.run_app(app, host="127.0.0.1", port=int(place), print=None)
    else:
        web.run_app(app, path=place, print=None)


if __name__ == "__main__":
    main(sys.argv[1])
