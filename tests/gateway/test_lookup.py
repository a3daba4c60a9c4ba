"""Where host names lead, with the system's own look-up."""

import asyncio
import socket

import pytest

from dp_vllm_gateway.lookup import Lookup


async def test_an_address_is_taken_as_it_is() -> None:
    assert await Lookup("127.0.0.1", 80).addresses() == ["127.0.0.1"]
    assert await Lookup("::1", 80).addresses() == ["::1"]


async def test_a_name_is_looked_up() -> None:
    addresses = await Lookup("localhost", 80).addresses()
    assert "127.0.0.1" in addresses
    assert len(set(addresses)) == len(addresses)


async def test_a_name_that_does_not_exist_is_an_oserror_for_all_who_wait_and_is_looked_up_again() -> None:
    lookup = Lookup("no-such-host.invalid", 80)
    for _ in range(2):
        waiting = [asyncio.create_task(lookup.addresses()) for _ in range(8)]
        for task in waiting:
            with pytest.raises(socket.gaierror):
                await task


async def test_one_who_gives_up_does_not_take_the_look_up_from_the_others() -> None:
    lookup = Lookup("localhost", 80)
    impatient = asyncio.create_task(lookup.addresses())
    patient = asyncio.create_task(lookup.addresses())
    await asyncio.sleep(0)
    impatient.cancel()
    assert "127.0.0.1" in await patient


@pytest.mark.parametrize("host", ["a" * 64, "a..b", ".a", "a" * 5000])
async def test_what_is_no_host_name_is_an_oserror(host: str) -> None:
    with pytest.raises(OSError, match=r"."):
        await Lookup(host, 80).addresses()
