"""What `--record` writes: lines that `dp-vllm replay` reads, and nothing that a client said."""

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import programs
import pytest
import scripted
import wire
from hypothesis import given
from hypothesis import strategies as st
from programs import Program
from scripted import END, STREAM, Engine, event, said, saying
from watched import Gateway, gateway

from dp_vllm.replay import source
from dp_vllm_gateway.recording import BLOCK_TOKENS, Numbers

SECRET = "the secret word "
LONG = SECRET * 1000
USAGE = {"prompt_tokens": 4500, "completion_tokens": 40}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with scripted.engine() as running:
        yield running


def recorded(path: Path, count: int) -> list[dict[str, Any]]:
    """The lines, once there are so many."""
    programs.wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") >= count, f"{count} lines")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == count
    return lines


def recording(path: Path, engine: Engine, *flags: str) -> contextlib.AbstractContextManager[Gateway]:
    """A gateway that records there."""
    return gateway(path.parent, engine, flags=("--record", str(path), *flags))


def ask(running: Gateway | Program, prompt: str = LONG, **fields: Any) -> wire.Answer:
    return wire.ask(running.url, "POST", "/v1/completions", {"model": "m", "prompt": prompt, **fields})


@pytest.mark.parametrize("policy", ["prefix", "least-load"])
def test_a_line_tells_when_how_long_and_what_is_shared_and_no_word(engine: Engine, tmp_path: Path, policy: str) -> None:
    path = tmp_path / "trace.jsonl"
    engine.script = saying(scripted.whole(200, {**said("fine", "stop"), "usage": USAGE}))
    with recording(path, engine, "--policy", policy) as running:
        assert ask(running, cache_salt="a").status == 200
        assert ask(running, cache_salt="a").status == 200
        assert ask(running, cache_salt="b").status == 200
        first, again, salted = recorded(path, 3)
    assert {key: first[key] for key in ("input_length", "output_length", "block_tokens")} == {
        "input_length": 4500,
        "output_length": 40,
        "block_tokens": BLOCK_TOKENS,
    }
    assert 0 <= first["timestamp"] <= again["timestamp"] <= salted["timestamp"] < 60_000
    assert len(first["hash_ids"]) == 4500 // 256 + 1
    shared = set(first["hash_ids"]) & set(again["hash_ids"])
    assert first["hash_ids"][:16] == again["hash_ids"][:16] and len(shared) in (16, 17)
    assert not set(first["hash_ids"]) & set(salted["hash_ids"])
    assert SECRET.strip().encode() not in path.read_bytes()
    assert source.read(str(path), None)[1] == BLOCK_TOKENS


def test_a_stream_has_as_many_tokens_as_chunks_if_nobody_counts_and_its_prompt_is_estimated(
    engine: Engine, tmp_path: Path
) -> None:
    path = tmp_path / "trace.jsonl"
    engine.script = saying(STREAM, *(event(said(word)) for word in "abcde"), event(b"[DONE]"), END)
    with recording(path, engine) as running:
        ask(running, "x" * 4000, stream=True)
        [line] = recorded(path, 1)
    assert line["input_length"] == 4002 // 4  # with its quotation marks
    assert 1 <= line["output_length"] <= 6


def test_what_no_engine_worked_on_is_not_recorded(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with recording(path, engine) as running:
        engine.script = saying(scripted.whole(400, {"error": {"message": "no"}}))
        assert ask(running).status == 400
        engine.script = scripted.FINE
        assert wire.ask(running.url, "POST", "/tokenize", {"prompt": LONG}).status == 200
        assert wire.ask(running.url, "POST", "/v1/completions", b"{").status == 400
        assert ask(running).status == 200
        recorded(path, 1)


def test_the_last_line_is_written_when_the_gateway_ends(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    engine.script = scripted.FINE
    with scripted.gateway(tmp_path, [engine], "--record", str(path)) as running:
        assert ask(running).status == 200
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
    assert len(path.read_text().splitlines()) == 1


def test_an_older_recording_is_kept(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    engine.script = scripted.FINE
    for _ in range(3):
        with recording(path, engine) as running:
            assert ask(running).status == 200
            recorded(path, 1)
    assert {found.name for found in tmp_path.glob("trace*")} == {"trace.jsonl", "trace.jsonl.1", "trace.jsonl.2"}


def test_a_full_disk_costs_lines_and_no_request(engine: Engine, tmp_path: Path) -> None:
    engine.script = scripted.FINE
    with gateway(tmp_path, engine, flags=("--record", "/dev/full")) as running:
        for _ in range(3):
            assert ask(running).status == 200
        told = "--record /dev/full: cannot be written: No space left on device"
        programs.wait_until(lambda: told in running.program.output(), "the log says it")
        assert ask(running).status == 200


def test_a_file_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "trace.jsonl"
    argv = programs.python("-m", "dp_vllm_gateway", "--replica", "http://127.0.0.1:1", "--record", str(path))
    with programs.running(argv, tmp_path / "log") as program:
        assert program.wait() == 2
        assert f"--record {path}: cannot be written: No such file or directory" in program.output()


# numbers

CHAIN = list(range(1000, 1040))
"""Hashes of a text's blocks."""


def test_a_conversation_has_the_numbers_of_its_beginning_again_whatever_its_tokens_are_like() -> None:
    for tokens_per_block in (90.0, 256.0, 700.0):
        numbers = Numbers()
        first = numbers.of(CHAIN[:10], 10.5, round(10.5 * tokens_per_block))
        longer = numbers.of(CHAIN[:30], 30.2, round(30.2 * tokens_per_block) + 40)
        shared = int(10 * tokens_per_block) // BLOCK_TOKENS
        assert first[:shared] == longer[:shared]
        assert len(set(first) | set(longer)) == len(first) + len(longer) - shared


def test_what_begins_alike_and_goes_on_otherwise_shares_its_beginning_alone() -> None:
    numbers = Numbers()
    one = numbers.of(CHAIN[:4], 4.0, 1024)
    other = numbers.of([*CHAIN[:2], 1, 2], 4.0, 1024)
    assert one == [0, 1, 2, 3]
    assert other == [0, 1, 4, 5]


def test_the_block_unused_for_longest_is_forgotten_and_numbered_anew() -> None:
    numbers = Numbers(most=4)
    assert numbers.of(CHAIN[:4], 4.0, 1024) == [0, 1, 2, 3]
    assert numbers.of([1, 2], 2.0, 512) == [4, 5]
    assert numbers.of(CHAIN[:4], 4.0, 1024) == [0, 1, 6, 7]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30_000), st.floats(0, 1)), max_size=8), st.integers(1, 60))
def test_there_are_as_many_numbers_as_the_tokens_make_and_each_is_there_once(
    prompts: list[tuple[int, int, float]], most: int
) -> None:
    numbers = Numbers(most)
    for length, tokens, rest in prompts:
        found = numbers.of(CHAIN[:length], length + rest, tokens)
        assert len(found) == len(set(found)) == -(-tokens // BLOCK_TOKENS)
