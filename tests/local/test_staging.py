"""Which replicas wait with their first start, and for whom."""

from pathlib import Path

import pytest

from dp_vllm.engine.command import SIM, Command, Engine
from dp_vllm.local.compiled import Compiled, beside_cache, staged
from dp_vllm.local.deployment import Replica
from dp_vllm.local.staging import STILL_SECONDS, Decision, Start, decide

NOW = 1000.0
WAITING = Start("1")


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        pytest.param([Start("0"), WAITING], Decision("0"), id="nobody has begun"),
        pytest.param([Start("0", NOW - 1), WAITING], Decision("0"), id="one is ahead"),
        pytest.param([Start("0", NOW - 1, failed=True), WAITING], Decision("1"), id="the next takes its place"),
        pytest.param(
            [Start("0", NOW - 1, shares=True), WAITING],
            Decision("", "replica 0 has compiled the model", compiled=True),
            id="it is through",
        ),
        pytest.param(
            [Start("0", NOW - 1, shares=True, failed=True), WAITING],
            Decision("", "replica 0 has compiled the model", compiled=True),
            id="it was through before it died",
        ),
        pytest.param(
            [Start("0", NOW - STILL_SECONDS - 1), WAITING],
            Decision("", "replica 0, which went ahead, has told nothing new for 600 s"),
            id="it hangs",
        ),
        pytest.param(
            [Start("0", NOW, failed=True), Start("1", NOW, failed=True), Start("2")],
            Decision("", "replicas 0 and 1 went ahead and failed"),
            id="it is no chance",
        ),
        pytest.param([], Decision(""), id="all told to end"),
    ],
)
def test_who_goes_ahead(starts: list[Start], expected: Decision) -> None:
    assert decide(starts, NOW) == expected


def replica(name: str, *words: str, model: str = "m") -> Replica:
    argv = ("taskset", "--cpu-list", name, "vllm", "serve", model, *words, "--uds", f"/run/{name}.sock")
    return Replica(name, (), Command(argv, {}), f"unix:/run/{name}.sock")


VLLM = Engine("vllm 0.32.0", ("vllm", "serve"))


def test_replicas_of_one_model_share_and_the_next_start_knows_it(tmp_path: Path) -> None:
    notes = Compiled(tmp_path / "notes")
    two = [replica("0", "--seed", "7"), replica("1", "--seed", "8"), replica("2", model="other")]
    first, second, other = staged(two, VLLM, notes)
    assert first.shares == second.shares != ""
    assert other.shares == "", "it is the only one of its model"
    notes.note(first.shares)
    assert not any(each.shares for each in staged(two, VLLM, notes))
    newer = staged(two, Engine("vllm 0.33.0", ()), notes)
    assert newer[0].shares not in ("", first.shares), "another version compiles anew"


def test_who_compiles_nothing_waits_for_nobody(tmp_path: Path) -> None:
    notes = Compiled(tmp_path)
    eager = [replica("0", "--enforce-eager"), replica("1", "--enforce-eager")]
    assert not any(each.shares for each in staged(eager, VLLM, notes))


def test_simulated_engines_compile_anew(tmp_path: Path) -> None:
    notes, two = Compiled(tmp_path), [replica("0"), replica("1")]
    key = staged(two, SIM, notes)[0].shares
    notes.note(key)
    assert staged(two, SIM, notes)[0].shares == key != ""


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/home/ann"}, "/home/ann/.cache/vllm"),
        ({"HOME": "/home/ann", "XDG_CACHE_HOME": "/cache"}, "/cache/vllm"),
        ({"HOME": "/home/ann", "XDG_CACHE_HOME": "/cache", "VLLM_CACHE_ROOT": "/fast"}, "/fast"),
    ],
)
def test_notes_are_beside_what_they_are_of(environ: dict[str, str], expected: str) -> None:
    assert beside_cache(environ).directory == Path(expected, "torch_compile_cache", "dp-vllm")
