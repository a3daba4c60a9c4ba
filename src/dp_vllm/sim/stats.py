"""The engine's own counts, plain numbers that cost nothing to keep. `metrics` says them in Prometheus' words.

Times are seconds. Names follow vLLM's metrics, with its buckets.
"""

from bisect import bisect_left
from collections import Counter
from typing import Final

from dp_vllm.sim.sequence import Sequence

FINISH_REASONS: Final = ("stop", "length", "abort", "error", "repetition")

_FIRST_TOKEN: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_BETWEEN: Final = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
    *(0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_REQUEST: Final = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0),
    *(40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_ITERATION: Final = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


def _one_two_five(limit: int) -> tuple[float, ...]:
    values = [float(step * 10**power) for power in range(8) for step in (1, 2, 5)]
    return tuple(value for value in values if value <= limit)


class Histogram:
    """Counts of values by upper bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value that was seen so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class Stats:
    """What one engine counted since its start."""

    def __init__(self, max_model_len: int) -> None:
        lengths = _one_two_five(max_model_len)
        self.prefix_queries = 0
        self.prefix_hits = 0
        self.prompt_tokens = 0
        self.prompt_tokens_cached = 0
        self.generation_tokens = 0
        self.preemptions = 0
        self.finished: Counter[str] = Counter(dict.fromkeys(FINISH_REASONS, 0))
        self.rejected: Counter[str] = Counter({"max_num_queued_reqs": 0, "max_num_queued_tokens": 0})
        self.time_to_first_token = Histogram(_FIRST_TOKEN)
        self.inter_token_latency = Histogram(_BETWEEN)
        self.time_per_output_token = Histogram(_BETWEEN)
        self.e2e_latency = Histogram(_REQUEST)
        self.queue_time = Histogram(_REQUEST)
        self.prefill_time = Histogram(_REQUEST)
        self.decode_time = Histogram(_REQUEST)
        self.inference_time = Histogram(_REQUEST)
        self.request_prompt_tokens = Histogram(lengths)
        self.request_generation_tokens = Histogram(lengths)
        self.request_prefill_computed = Histogram(lengths)
        self.iteration_tokens = Histogram(_ITERATION)

    def count_admitted(self, sequence: Sequence, now: float, *, cache: bool) -> None:
        """A sequence left the queue for the first time."""
        self.queue_time.add(now - sequence.arrived)
        if cache:
            self.prefix_queries += len(sequence.prompt)
            self.prefix_hits += sequence.cached

    def count_unsteady(self, sequence: Sequence, now: float) -> int:
        """A token came that does not follow one of the step before; the prompt's tokens, if it is the first."""
        if sequence.generated:
            self.inter_token_latency.add(now - sequence.last_at)
            return 0
        length = len(sequence.prompt)
        sequence.first_at = now
        self.prompt_tokens += length
        self.prompt_tokens_cached += sequence.cached
        self.time_to_first_token.add(now - sequence.arrived)
        self.prefill_time.add(now - sequence.admitted)
        self.request_prefill_computed.add(length - sequence.cached)
        return length

    def count_step(self, prompts: int, given: int, steady: int, seconds: float) -> None:
        """A step gave tokens. As in vLLM, the prompt tokens of one that gives none are counted with a later one."""
        if steady:
            self.inter_token_latency.add(seconds, steady)
        self.iteration_tokens.add(prompts + given)
        self.generation_tokens += given

    def count_completed(self, sequence: Sequence, now: float) -> None:
        """A sequence got its last token."""
        decode = now - sequence.first_at
        self.finished[sequence.finish] += 1
        self.e2e_latency.add(now - sequence.arrived)
        self.decode_time.add(decode)
        self.inference_time.add(now - sequence.admitted)
        self.request_prompt_tokens.add(len(sequence.prompt))
        self.request_generation_tokens.add(sequence.generated)
        if sequence.generated > 1:
            self.time_per_output_token.add(decode / (sequence.generated - 1))
