"""The WebSocket."""

import aiohttp
from programs import Program


async def test_it_says_back_what_it_is_told(sim: Program) -> None:
    url = sim.url.replace("http", "ws") + "/v1/realtime"
    async with aiohttp.ClientSession() as session, session.ws_connect(url, protocols=("realtime",)) as channel:
        assert channel.protocol == "realtime"
        created = await channel.receive_json()
        assert created["session"]["simulated_by"].startswith("simulated")
        await channel.send_str("hello")
        await channel.send_bytes(b"\x00\xff")
        assert await channel.receive_str() == "hello"
        assert await channel.receive_bytes() == b"\x00\xff"
        await channel.close(code=4000)
        assert channel.close_code == 4000
