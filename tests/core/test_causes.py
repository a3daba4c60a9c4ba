"""The rules that say why an engine ended: each finds its own samples, and none a healthy engine."""

import re

import pytest

from dp_vllm.engine import causes, log
from dp_vllm.engine.causes import Rule

HEALTHY = """\
(APIServer pid=1) INFO 11-21 22:00:00 [api_utils.py:273] non-default args: {'trust_remote_code': True, 'api_key': '***'}
(EngineCore pid=9) INFO 11-21 22:00:01 [core.py:97] Initializing a V1 LLM engine (v0.32.0) with config: model='m', \
trust_remote_code=True, dtype=torch.bfloat16, quantization=fp8, enforce_eager=False, disable_custom_all_reduce=False
(EngineCore pid=9) WARNING 11-21 22:00:02 [parallel.py:746] Address already in use. Retrying with a new port.
(Worker pid=10) WARNING 11-21 22:00:03 [custom_all_reduce.py:160] Custom allreduce is disabled because your platform \
lacks GPU P2P capability or P2P test failed.
(Worker pid=10) INFO 11-21 22:00:04 [shm_broadcast.py:466] \
No available shared memory broadcast block found in 60 seconds.
(APIServer pid=1) WARNING 11-21 22:00:05 [system_utils.py:255] Found ulimit of 20000 and failed to automatically \
increase. This can cause fd limit errors like `OSError: [Errno 24] Too many open files`. Consider increasing.
(EngineCore pid=9) INFO 11-21 22:00:05 [kv_cache_utils.py:1319] GPU KV cache size: 251,584 tokens
(APIServer pid=1) INFO:     Application startup complete.
""".splitlines()


@pytest.mark.parametrize("rule", causes.rules(), ids=lambda rule: rule.reason)
def test_each_rule_is_the_first_that_finds_its_samples(rule: Rule) -> None:
    assert rule.samples
    for sample in rule.samples:
        match = re.search(rule.pattern, sample)
        assert match is not None
        expected = causes.Cause(rule.reason, rule.cause.format(*match.groups()), rule.fix)
        assert causes.cause(["INFO before", sample, "INFO after"]) == expected


@pytest.mark.parametrize("rule", causes.rules(), ids=lambda rule: rule.reason)
def test_each_rule_is_a_word_and_two_sentences_without_capital_and_full_stop(rule: Rule) -> None:
    assert re.fullmatch(r"([A-Z]+[a-z]*)+", rule.reason)
    assert rule.cause and rule.fix
    assert not rule.cause.endswith(".") and not rule.fix.endswith(".")
    assert len(f"{rule.cause}: {rule.fix}") < log.LONGEST


def test_reasons_differ() -> None:
    reasons = [rule.reason for rule in causes.rules()]
    assert len(set(reasons)) == len(reasons)


def test_a_healthy_engine_has_no_cause() -> None:
    assert causes.cause(HEALTHY) is None


def test_a_cause_counts_before_what_follows_from_it() -> None:
    lines = [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
        "[rank1]: Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1)",
        "Worker proc VllmWorker-1 died unexpectedly (exit code: 1), shutting down executor.",
    ]
    found = [causes.cause(lines[first:]) for first in range(3)]
    assert [cause and cause.reason for cause in found] == ["OutOfGPUMemory", "CollectiveTimeout", "EngineCoreDied"]


def test_of_one_rule_the_newest_line_is_told() -> None:
    lines = ["PermissionError: [Errno 13] Permission denied: '/a'", "PermissionError: Permission denied: '/b'"]
    assert log.likely_cause(lines) == "the engine's user may not use /b: see who owns it"
