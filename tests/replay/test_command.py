"""`dp-vllm replay`: its flags, what it prints, and what it says of input that is not as it should be."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dp_vllm import cli
from dp_vllm.errors import UserError
from dp_vllm.replay.command import POLICIES, main


def line(at_ms: int, *blocks: int, tokens: int = 1000, **more: object) -> dict[str, object]:
    return {"timestamp": at_ms, "input_length": tokens, "output_length": 5, "hash_ids": blocks, **more}


LINES = [line(0, 1, 2), line(2000, 1, 3), line(4000, 4, 5), line(6000, 1, 2)]


def text(*lines: object) -> str:
    return "".join(json.dumps(one) + "\n" for one in lines)


def run(*words: str, given: str | None = None) -> Result:
    return CliRunner().invoke(main, words, input=given, standalone_mode=False, catch_exceptions=False)


def found(*words: str, given: str) -> dict[str, Any]:
    return dict(json.loads(run("-", *words, "--json", given=given).stdout))


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "trace.jsonl"
    path.write_text(text(*LINES))
    return str(path)


def test_every_policy_has_a_line_in_the_order_in_which_it_was_named(trace: str) -> None:
    lines = run(trace).stdout.splitlines()
    assert lines[0].startswith("4 requests in 6 s to 4 replicas: ")
    assert [one.split()[0] for one in lines[3:]] == [policy.value for policy in POLICIES]
    named = run(trace, "--policy", "round-robin,prefix").stdout.splitlines()
    assert [one.split()[0] for one in named[3:]] == ["round-robin", "prefix"]


def test_standard_input_and_packed_files_are_traces_too(trace: str, tmp_path: Path) -> None:
    packed = tmp_path / "trace.jsonl.gz"
    packed.write_bytes(gzip.compress(text(*LINES).encode()))
    assert run("-", given=text(*LINES)).stdout == run(str(packed)).stdout == run(trace).stdout


def test_a_part_of_the_trace_another_speed_and_other_engines() -> None:
    all_of_it = found("--policy", "prefix", given=text(*LINES))
    part = found("--policy", "prefix", "--from", "1", "--to", "3", "--speed", "4", given=text(*LINES))
    assert (all_of_it["requests"], all_of_it["seconds"], part["requests"], part["seconds"]) == (4, 6.0, 2, 0.5)
    assert part["load"] == pytest.approx(2000 / (15_000 * 4 * 0.5))
    slow = ("--replicas", "1", "--prefill-tokens-per-second", "100", "--decode-step-seconds", "1")
    late = found(*slow, "--decode-growth-seconds", "1", "--policy", "prefix", "--to", "1", given=text(*LINES))
    row = late["policies"]["prefix"]
    assert (row["first_mean_seconds"], row["per_token_mean_seconds"]) == (pytest.approx(11.0), pytest.approx(2.0))


def test_the_weight_decides_between_a_cache_and_a_wait() -> None:
    """The second prompt finds its beginning where a first one still waits."""
    lines = text(line(0, *range(9), tokens=512 * 9), line(10, *range(9), tokens=512 * 9))
    hits = [
        found("--prefix-weight", w, "--policy", "prefix", given=lines)["policies"]["prefix"]["busiest"] for w in "09"
    ]
    assert hits == [0.5, 1.0]


def test_a_short_prompt_waits_for_no_long_one_that_the_gateway_keeps_back() -> None:
    """One engine reads a first prompt when a long one comes, and then a short one."""
    lengths = ((0, 1, 5120), (10, 2, 51200), (20, 3, 512))
    lines = text(*(line(at, *range(100 * n, 100 * n + tokens // 512), tokens=tokens) for at, n, tokens in lengths))
    firsts = [
        found("--replicas", "1", "--policy", "prefix", "--replica-ahead-seconds", seconds, given=lines)["policies"][
            "prefix"
        ]
        for seconds in ("3600", "0.01")
    ]
    assert firsts[1]["first_p50_seconds"] < 0.5 < 3 < firsts[0]["first_p50_seconds"]


@pytest.mark.parametrize(("words", "tokens"), [((), 500), (("--block-tokens", "512"), 512)])
def test_a_block_is_as_long_as_the_flag_says_or_the_trace(words: tuple[str, ...], tokens: int) -> None:
    given = text(*(one | {"block_tokens": 500} for one in LINES))
    row = found(*words, "--policy", "prefix", given=given)["policies"]["prefix"]
    assert row["hit_rate"] == pytest.approx(2 * tokens / 4000)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--policy", "prefix,best"), "'--policy': 'best' is not one of prefix, least-load, "),
        (("--policy", "session"), "'--policy': a trace does not say which requests are one session"),
        (("--policy", ""), "'--policy': '' is not one of"),
        (("--from", "4"), "--from 4: the trace has 4 requests, counted from 0"),
        (("--from", "2", "--to", "2"), "--to 2: has to be more than --from 2"),
        (("--kv-blocks", "1"), "--kv-blocks 1: request 0 needs 2 blocks"),
        (("--from", "1", "--kv-blocks", "1"), "request 1 needs"),
        (("--speed", "0"), "'--speed'"),
        (("--prefix-weight", "nan"), "'--prefix-weight': 'nan' is not a number"),
        (("--replicas", "x"), "'--replicas'"),
        (("--block-tokens", "100"), "line 1: hash_ids: 2 blocks, but input_length 1000 makes 10 of 100 tokens"),
    ],
)
def test_what_is_wrong_is_a_sentence_that_names_it(
    trace: str,
    words: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["dp-vllm", "replay", trace, *words])
    assert cli.main() in (1, 2)
    assert said in capsys.readouterr().err


def test_a_line_of_standard_input_is_named_as_such() -> None:
    with pytest.raises(UserError, match=r"^standard input, line 2: .*output_length"):
        run("-", given=text(LINES[0], LINES[1] | {"output_length": -1}))


def test_a_block_length_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^standard input, line 1: .*\$\.block_tokens"):
        run("-", given=text(LINES[0] | {"block_tokens": 0}))


def test_a_file_that_is_not_there_or_not_packed_is_named(tmp_path: Path) -> None:
    absent, wrong = tmp_path / "absent.jsonl", tmp_path / "wrong.gz"
    wrong.write_text(text(*LINES))
    for path in (absent, wrong):
        with pytest.raises(UserError, match=f"^{path}: cannot be read: "):
            run(str(path))
