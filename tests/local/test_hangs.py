"""Which replica that hangs is ended: few at a time, few in all, and never the last."""

from collections.abc import Sequence

import pytest

from dp_vllm.local.hangs import why_not

NOW = 10_000.0


@pytest.mark.parametrize(
    ("ended", "others", "away", "expected"),
    [
        pytest.param([], "12", "", "", id="the first"),
        pytest.param([], "", "", "no other replica would be left to serve", id="the last"),
        pytest.param([], "1", "2", "replica 2 was ended for that and is not back yet", id="one at a time"),
        pytest.param([NOW - 10, NOW - 5], "1", "", "", id="twice"),
        pytest.param([NOW - 3599, NOW - 10, NOW], "1", "", "it was ended for that 3 times within an hour", id="thrice"),
        pytest.param([NOW - 3601, NOW - 10, NOW], "1", "", "", id="not so often lately"),
    ],
)
def test_the_budget(ended: Sequence[float], others: str, away: str, expected: str) -> None:
    assert why_not(ended, others, away, NOW) == expected
