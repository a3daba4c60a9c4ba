"""Ids of requests whose clients give none."""

import re

from dp_vllm_gateway.request_ids import BLOCK_IDS, RequestIds


def test_no_id_says_anything_of_another() -> None:
    ids = [each for source in (RequestIds(), RequestIds()) for each in (source.next() for _ in range(3 * BLOCK_IDS))]
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)
    assert len(set(ids)) == len(ids)
    for at in range(32):
        assert len({each[at] for each in ids}) == 16, "every digit is random"
