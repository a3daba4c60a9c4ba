"""Traces: what is read from a file, what is wrong with one, and what one cache for all would have had."""

import gzip
import json
from pathlib import Path

import pytest

from dp_vllm.errors import UserError
from dp_vllm.replay.trace import Request, from_zero, ideal_hit_rate, ideal_hits, lines, read

LINE = {"timestamp": 27482, "input_length": 1000, "output_length": 52, "hash_ids": [46, 47]}


def written(folder: Path, *values: object, name: str = "trace.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def asked(*blocks: int, tokens: int | None = None) -> Request:
    """A prompt of these blocks of ten tokens."""
    return Request(0.0, tokens or len(blocks) * 10, 1, blocks)


def test_a_line_becomes_a_request_whose_time_counts_from_the_first(tmp_path: Path) -> None:
    later = LINE | {"timestamp": 28982, "input_length": 512, "hash_ids": [46], "model": "is ignored"}

    assert read(written(tmp_path, LINE, later)) == [Request(0.0, 1000, 52, (46, 47)), Request(1.5, 512, 52, (46,))]


def test_requests_are_ordered_by_time_and_those_of_one_moment_stay_in_the_order_of_the_file(tmp_path: Path) -> None:
    moments = [LINE | {"timestamp": 2000, "output_length": 1}, LINE | {"timestamp": 1000, "output_length": 2}]

    found = read(written(tmp_path, *moments, LINE | {"timestamp": 1000, "output_length": 3}))

    assert [(request.at_seconds, request.completion_tokens) for request in found] == [(0.0, 2), (0.0, 3), (1.0, 1)]


def test_a_packed_trace_is_unpacked_and_empty_lines_are_no_requests(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n" + json.dumps(LINE).encode() + b"\r\n\n"))

    assert len(read(path)) == 1


@pytest.mark.parametrize("ids", [[1], [1, 2]])
def test_the_last_part_of_a_prompt_may_have_a_block_or_none(tmp_path: Path, ids: list[int]) -> None:
    assert read(written(tmp_path, LINE | {"hash_ids": ids}))[0].blocks == tuple(ids)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (LINE | {"hash_ids": [1, 2, 3]}, "hash_ids: 3 blocks, but input_length 1000 makes 2 of 512 tokens"),
        (LINE | {"hash_ids": []}, "hash_ids: 0 blocks"),
        (LINE | {"hash_ids": ["a", "b"]}, r"\$\.hash_ids"),
        (LINE | {"input_length": 0, "hash_ids": []}, r"\$\.input_length"),
        (LINE | {"timestamp": -1}, r"\$\.timestamp"),
        (LINE | {"output_length": "52"}, r"\$\.output_length"),
        ({"timestamp": 0}, "input_length"),
        ("text", "line 2"),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_field(tmp_path: Path, line: object, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        read(written(tmp_path, LINE, line))

    assert "trace.jsonl, line 2: " in str(caught.value)


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps(LINE) + '\n{"timestamp": 1,\n')

    with pytest.raises(UserError, match="line 2"):
        read(path)


def test_a_file_that_is_missing_empty_or_not_packed_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jsonl", written(tmp_path), written(tmp_path, LINE, name="trace.gz")):
        with pytest.raises(UserError, match=str(path)):
            read(path)


def test_a_truncated_packed_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(LINE).encode())[:-12])

    with pytest.raises(UserError, match=str(path)):
        read(path)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    requests = [Request(0.0, 30, 5, (1, 2, 3)), Request(1.234, 25, 1, (1, 2, 4))]
    path = tmp_path / "trace.jsonl"
    path.write_bytes(b"".join(lines(requests)))

    assert read(path, block_tokens=10) == requests


def test_a_part_of_a_trace_begins_at_once() -> None:
    part = from_zero([Request(5.0, 1, 1, (1,)), Request(7.5, 1, 1, (2,))])

    assert [request.at_seconds for request in part] == [0.0, 2.5]
    assert from_zero([]) == []


def test_the_ideal_is_the_share_of_prompt_tokens_in_full_blocks_that_came_before_behind_the_same_ones() -> None:
    requests = [asked(1, 2, 3), asked(1, 2, 4), asked(5, 2, 3)]

    assert ideal_hits(requests, 10, 100) == [0, 20, 0]
    assert ideal_hit_rate(requests, 10, 100) == 20 / 90


def test_the_last_token_of_a_prompt_and_a_block_that_is_not_full_are_always_computed() -> None:
    assert ideal_hit_rate([asked(1, 2), asked(1, 2)], 10, 100) == 10 / 40
    assert ideal_hit_rate([asked(1, 2, tokens=15), asked(1, 2, tokens=15)], 10, 100) == 10 / 30


def test_of_the_blocks_unused_for_longest_the_last_of_a_prompt_go_first() -> None:
    before, other, again = asked(1, 2, 3), asked(8, 9), asked(1, 2, 3, 4)

    assert ideal_hit_rate([before, other, again], 10, 5) == 30 / 90
    assert ideal_hit_rate([before, other, again], 10, 4) == 20 / 90
    assert ideal_hit_rate([before, other, again], 10, 2) == 0


def test_nothing_asked_is_nothing_hit() -> None:
    assert ideal_hit_rate([], 10, 4) == 0
