"""The figures of a replay, by hand."""

import pytest

from dp_vllm.replay.fleet import Answer
from dp_vllm.replay.report import Report, as_text, quantile, row

ANSWERS = [
    Answer("0", 100, 50, 11, 1.0, 2.0),
    Answer("1", 300, 50, 1, 3.0, 3.0),
    Answer("0", 100, 0, 5, 2.0, 2.8),
    Answer("0", 100, 20, 2, 4.0, 4.3),
]


def test_the_figures_of_some_answers() -> None:
    found = row(ANSWERS, 0.4)
    assert found.hit_rate == 120 / 600
    assert found.of_ideal == pytest.approx(0.5)
    assert found.first_mean_seconds == 2.5
    assert (found.first_p50_seconds, found.first_p90_seconds, found.first_p99_seconds) == (2.0, 4.0, 4.0)
    assert found.per_token_mean_seconds == pytest.approx((0.1 + 0.2 + 0.3) / 3)
    assert (found.total_p50_seconds, found.total_p99_seconds) == (2.8, 4.3)
    assert found.busiest == 0.75


def test_where_nothing_can_be_hit_there_is_no_share_of_it() -> None:
    assert row(ANSWERS, 0.0).of_ideal is None


def test_answers_of_one_token_have_no_time_between_tokens() -> None:
    assert row(ANSWERS[1:2], 0.4).per_token_mean_seconds == 0


@pytest.mark.parametrize(
    ("share", "value"), [(0.01, 1.0), (0.5, 5.0), (0.51, 6.0), (0.9, 9.0), (0.99, 10.0), (1.0, 10.0)]
)
def test_a_quantile_is_one_of_the_values(share: float, value: float) -> None:
    assert quantile([float(number) for number in range(1, 11)], share) == value


def test_the_table_has_a_line_for_each_policy_and_says_how_much_was_asked() -> None:
    report = Report(4, 12.3, 2, 0.62, 0.4, {"prefix": row(ANSWERS, 0.4), "round-robin": row(ANSWERS, 0.0)})
    told, _, head, prefix, robin = as_text(report).splitlines()
    assert told.startswith("4 requests in 12 s to 2 replicas: prompts alone are 0.62 of what these can read; ")
    assert told.endswith("one cache for all would hit 0.400")
    assert " ".join(prefix.split()) == "prefix 0.200 0.500 2.50 2.00 4.00 4.00 200.0 2.8 4.3 0.750"
    assert robin.split()[2] == "-"
    assert len(head) == len(prefix) == len(robin)
