"""`/v1/realtime`: a WebSocket that says back what it is told, after saying that it is simulated."""

from __future__ import annotations

import uuid

from aiohttp import WSCloseCode, WSMsgType, web

from dp_vllm.sim.app import FINGERPRINT, App


async def realtime(app: App, request: web.BaseRequest) -> web.StreamResponse:
    """Echo texts and bytes until the client closes, and then its close code."""
    channel = web.WebSocketResponse(protocols=("realtime",), autoclose=False)
    if not channel.can_prepare(request):
        return web.Response(status=426, text="Upgrade Required")
    await channel.prepare(request)
    model = app.options.names[0]
    session = {"id": f"sess_{uuid.uuid4().hex}", "model": model, "simulated_by": FINGERPRINT}
    await channel.send_json({"type": "session.created", "session": session})
    async for message in channel:
        if message.type is WSMsgType.TEXT:
            await channel.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await channel.send_bytes(message.data)
    await channel.close(code=channel.close_code or WSCloseCode.OK)
    return channel
