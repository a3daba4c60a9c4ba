"""What the real engine writes while it starts is read as stages, in their order."""

from itertools import groupby
from pathlib import Path

import pytest
import real_engine

from dp_vllm.engine import log
from dp_vllm.engine.log import Stage

pytestmark = pytest.mark.vllm


def test_a_start_goes_through_its_stages_in_order(tmp_path: Path) -> None:
    with real_engine.engine(tmp_path) as program:
        lines = program.output().splitlines()
    stages = [stage for count in range(len(lines)) if (stage := log.stage(lines[: count + 1]))]
    phases = [phase for phase, _ in groupby(stage.phase for stage in stages)]
    assert phases == ["Loading", "WarmingUp"], "it compiles nothing: --enforce-eager"
    assert Stage("Loading", "loading weights", 100) in stages
    assert not stages[0].is_past_compiling and stages[-1].is_past_compiling
