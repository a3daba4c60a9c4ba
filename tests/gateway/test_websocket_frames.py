"""How many bytes of a WebSocket message have come before its end."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from dp_vllm_gateway.websocket_frames import Unfinished

CONTINUATION, TEXT, PING = 0, 1, 9


def frame(opcode: int, size: int, *, fin: bool, masked: bool) -> bytes:
    mask = 0x80 if masked else 0
    first = (0x80 if fin else 0) | opcode
    if size < 126:
        head = bytes((first, size | mask))
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, 126 | mask, size)
    else:
        head = struct.pack("!BBQ", first, 127 | mask, size)
    return head + bytes(4 if masked else 0) + bytes(size)


MESSAGES = st.lists(
    st.tuples(
        st.lists(st.sampled_from([0, 1, 125, 126, 65_535, 65_536]), min_size=1, max_size=3),
        st.booleans(),
        st.integers(0, 125),
    ),
    max_size=5,
)


@given(MESSAGES, st.booleans(), st.integers(0, 70_000), st.lists(st.integers(1, 5_000), min_size=1))
def test_what_is_unfinished_is_what_came_since_the_last_message_ended(
    messages: list[tuple[list[int], bool, int]], masked: bool, rest: int, cuts: list[int]
) -> None:
    data = b""
    for sizes, pinged, ping in messages:
        for number, size in enumerate(sizes):
            opcode = CONTINUATION if number else TEXT
            data += frame(opcode, size, fin=number == len(sizes) - 1, masked=masked)
            data += frame(PING, ping, fin=True, masked=masked) if pinged else b""
    data += frame(TEXT, 300, fin=False, masked=masked) + frame(PING, 9, fin=True, masked=masked)
    data += frame(CONTINUATION, 70_000, fin=True, masked=masked)[: rest - 70_000 or None]
    unfinished, place, number = Unfinished(), 0, 0
    while place < len(data):
        cut = cuts[number % len(cuts)]
        unfinished.feed(data[place : place + cut])
        place, number = place + cut, number + 1
    assert unfinished.size == (300 + rest if rest < 70_000 else 0)
