"""How a run looks as a table, and how fast it is by what was counted."""

from typing import Any

import pytest
from rich.console import Console
from run_samples import SERVING

from dp_vllm.endpoints import State
from dp_vllm.local.operate import table
from dp_vllm.local.operate.report import Replica, Run
from dp_vllm.local.operate.status import Rates
from dp_vllm.local.plan import Then


def replica(name: str = "0", **told: Any) -> Replica:
    program = {key: getattr(SERVING, key) for key in SERVING.__struct_fields__}
    added = {"gpus": (), "worst_link": None, "address": "", "ordered": None, "drain_seconds": None}
    counted = {"serves": True, "in_flight": 0, "waiting": 0, "requests": 0, "generated_tokens": 0}
    return Replica(name=name, **{**program, **added, **counted, **told})


def run(*replicas: Replica) -> Run:
    return Run(name="8000", state="ready", directory="", logs="/logs", gateway=SERVING, replicas=replicas)


def drawn(*replicas: Replica, rates: table.Rates | None = None) -> list[list[str]]:
    """The rows of replicas, their title first, in cells."""
    console = Console(width=400)
    with console.capture() as capture:
        console.print(table.of_runs([run(*replicas)], rates or {}))
    rows = capture.get().splitlines()[2 : 3 + len(replicas)]
    return [[cell for cell in row.split("  ") if cell.strip()] for row in rows]


def test_columns_in_which_nothing_stands_are_left_out() -> None:
    titles, row = drawn(replica())
    assert [title.strip() for title in titles] == ["replica", "state", "for", "starts", "in flight"]
    titles, row = drawn(replica(gpus=("0", "1"), worst_link="NV18", requests=1200), rates={("8000", "0"): 1234.5})
    told = dict(zip(map(str.strip, titles), map(str.strip, row), strict=True))
    assert (told["GPUs"], told["link"], told["requests"], told["tokens/s"]) == ("0,1", "NV18", "1,200", "1,234")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, "ready"),
        ({"serves": False}, "ready, not used yet"),
        ({"state": State.STARTING}, "starting"),
        ({"state": State.STARTING, "message": "loading weights, 40 %"}, "starting: loading weights, 40 %"),
        ({"state": State.DOWN}, "down, starts again"),
        ({"state": State.DOWN, "stays_down": True}, "down for good"),
        ({"state": State.DOWN, "ordered": Then.STAY_DOWN}, "drained"),
        ({"state": State.DOWN, "ordered": Then.START}, "down, starts again"),
        ({"state": State.DRAINING}, "hangs, is being ended"),
        ({"state": State.DRAINING, "ordered": Then.LEAVE}, "draining, then leaves"),
        (
            {"state": State.DRAINING, "ordered": Then.START, "in_flight": 2, "drain_seconds": 9.6},
            "draining, 10 s left, then starts again",
        ),
    ],
)
def test_a_replicas_state_in_words(told: dict[str, Any], words: str) -> None:
    assert table.state(replica(**{"serves": told == {}, **told})) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.9, "0s"), (59, "59s"), (184, "3m 4s"), (7500, "2h 5m"), (180000, "2d 2h")]
)
def test_a_length_of_time_has_two_units_at_most(seconds: float, words: str) -> None:
    assert table.duration(seconds) == words


def test_tokens_per_second_are_those_of_the_last_ten_seconds_of_one_life() -> None:
    rates = Rates()
    for second in range(31):
        rates.add(
            [run(replica(generated_tokens=100 * second if second < 20 else 100 * 20 + 50 * (second - 20)))], second
        )
        assert bool(rates.now()) == (second >= 5)
    assert rates.now() == {("8000", "0"): 50.0}
    rates.add([run(replica(generated_tokens=3))], 31)
    assert rates.now() == {}, "its engine was started anew"
