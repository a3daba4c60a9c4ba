"""The model of time and the scheduler, without a clock: steps follow each other at once."""

from dataclasses import dataclass, field

import pytest

from dp_vllm.sim import kv, tokens
from dp_vllm.sim.engine import Engine, Limits, Pace
from dp_vllm.sim.reply import Reply
from dp_vllm.sim.sequence import Place, Sequence

PACE = Pace(prefill_tokens_per_second=1000, decode_step_seconds=0.1, decode_growth_seconds=0.01)


@dataclass
class Heard:
    """A sink that remembers."""

    tokens: int = 0
    finish: str = ""
    order: list[str] = field(default_factory=list)

    def token(self, sequence: Sequence) -> None:
        self.tokens += 1

    def end(self, sequence: Sequence) -> None:
        self.finish = sequence.finish


def engine(seqs: int = 8, batched: int = 64, blocks: int = 100, caching: bool = True, queued: int = -1) -> Engine:
    return Engine(Limits(seqs, batched, 512, 4, blocks, caching, queued), PACE)


def sequence(made: Engine, prompt: int, length: int, seed: int = 0) -> Sequence:
    """A prompt of so many tokens, its first word another for each seed."""
    ids = tokens.encode(f"{seed:04d}" + " abc" * (prompt - 1))
    assert len(ids) == prompt
    root = kv.root()
    hashes = kv.chain(ids, 4, root) if made.limits.prefix_caching else []
    return Sequence(ids, Reply("m", seed, length, "length"), Heard(), hashes, root)


def run(made: Engine, steps: int = 10_000) -> list[float]:
    """Step until there is nothing to do; the steps' lengths."""
    lengths: list[float] = []
    while len(lengths) < steps and (seconds := made.begin(sum(lengths))) is not None:
        lengths.append(seconds)
        made.finish(sum(lengths))
    return lengths


def test_a_step_takes_its_base_and_its_prompt_tokens_and_its_decodes() -> None:
    made = engine()
    made.add([sequence(made, 20, 3)], 0.0)
    assert run(made) == pytest.approx([0.1 + 20 / 1000, 0.1 + 0.01, 0.1 + 0.01])


def test_decode_steps_grow_with_the_batch() -> None:
    made = engine()
    made.add([sequence(made, 4, 2, seed) for seed in range(5)], 0.0)
    assert run(made)[1] == pytest.approx(0.1 + 5 * 0.01)


def test_a_long_prompt_is_computed_in_chunks_beside_others() -> None:
    made = engine(batched=16)
    short, long = sequence(made, 4, 10), sequence(made, 40, 2, seed=1)
    made.add([short], 0.0)
    run(made, 1)
    made.add([long], 0.1)
    run(made, 2)
    assert (short.generated, long.computed, long.generated) == (3, 30, 0)
    run(made, 1)
    assert (short.generated, long.generated) == (4, 1)


def test_no_more_run_than_allowed_and_the_rest_come_in_order() -> None:
    made = engine(seqs=2)
    all_of_them = [sequence(made, 4, 3, seed) for seed in range(5)]
    made.add(all_of_them, 0.0)
    made.begin(0.0)
    assert (len(made.running), len(made.waiting)) == (2, 3)
    made.finish(0.1)
    run(made)
    admitted = [one.admitted for one in all_of_them]
    assert admitted == sorted(admitted)
    assert made.stats.finished["length"] == 5


def test_a_repeated_prompt_is_found_in_the_cache_but_for_its_last_block() -> None:
    made = engine()
    made.add([sequence(made, 20, 2)], 0.0)
    run(made)
    again = sequence(made, 20, 2)
    made.add([again], 1.0)
    first = run(made)[0]
    assert again.cached == 16
    assert first == pytest.approx(0.1 + 4 / 1000)
    assert (made.stats.prefix_queries, made.stats.prefix_hits) == (40, 16)
    assert (made.stats.prompt_tokens, made.stats.prompt_tokens_cached) == (40, 16)


def test_generated_tokens_are_found_by_the_next_turn() -> None:
    made = engine()
    turn = sequence(made, 8, 9)
    made.add([turn], 0.0)
    run(made)
    ids = turn.prompt + turn.reply.tokens(0, 8) + tokens.encode(" and more")
    following = Sequence(ids, Reply("m", 0, 1, "length"), Heard(), kv.chain(ids, 4, kv.root()), kv.root())
    made.add([following], 1.0)
    run(made)
    assert following.cached == 16


def test_without_a_prefix_cache_nothing_is_found() -> None:
    made = engine(caching=False)
    for _ in range(2):
        made.add([sequence(made, 20, 2)], 0.0)
        run(made)
    assert (made.stats.prefix_queries, made.stats.prefix_hits, made.stats.prompt_tokens_cached) == (0, 0, 0)


def test_the_youngest_gives_way_when_blocks_run_out_and_still_ends() -> None:
    made = engine(blocks=10, caching=False)
    old, young = sequence(made, 16, 16), sequence(made, 16, 16, seed=1)
    made.add([old, young], 0.0)
    run(made)
    assert made.stats.preemptions == 1
    assert old.last_at < young.last_at
    assert (old.generated, young.generated) == (16, 16)
    assert made.cache.usage == 0.0


def test_a_prompt_waits_while_the_blocks_do_not_suffice() -> None:
    made = engine(blocks=10, caching=False)
    made.add([sequence(made, 32, 4), sequence(made, 16, 4, seed=1)], 0.0)
    made.begin(0.0)
    assert (len(made.running), len(made.waiting)) == (1, 1)


def test_an_abort_gives_the_blocks_back_and_is_not_counted() -> None:
    made = engine()
    running, waiting = sequence(made, 20, 50), sequence(made, 20, 50, seed=1)
    made.add([running], 0.0)
    run(made, 3)
    made.add([waiting], 1.0)
    made.abort([running, waiting])
    assert made.begin(2.0) is None
    assert made.cache.usage == 0.0
    assert sum(made.stats.finished.values()) == 0


def test_one_that_is_aborted_during_a_step_gets_no_token() -> None:
    made = engine()
    gone = sequence(made, 20, 50)
    made.add([gone], 0.0)
    made.begin(0.0)
    made.abort([gone])
    made.finish(0.1)
    assert gone.place is Place.ENDED
    assert gone.generated == 0


def test_all_can_be_ended_for_a_reason() -> None:
    made = engine(seqs=1)
    both = [sequence(made, 4, 50), sequence(made, 4, 50, seed=1)]
    made.add(both, 0.0)
    run(made, 2)
    made.end_all("abort")
    assert [one.sink.finish for one in both if isinstance(one.sink, Heard)] == ["abort", "abort"]
    assert made.stats.finished["abort"] == 2


def test_a_request_is_refused_when_it_would_make_the_queue_too_long() -> None:
    made = engine(seqs=1, queued=1)
    assert not made.busy_for(2)
    made.add([sequence(made, 4, 5), sequence(made, 4, 5, seed=1)], 0.0)
    assert made.busy_for(1)
    assert made.stats.rejected["max_num_queued_reqs"] == 1


def test_work_that_generates_nothing_ends_with_its_prompt() -> None:
    made = engine()
    pooled = sequence(made, 20, 0)
    made.add([pooled], 0.0)
    assert len(run(made)) == 1
    assert made.stats.generation_tokens == 0
    assert made.stats.prompt_tokens == 20


def test_steps_without_a_token_are_counted_with_the_one_that_has_it() -> None:
    made = engine(batched=16)
    made.add([sequence(made, 40, 1)], 0.0)
    run(made)
    assert sum(made.stats.iteration_tokens.counts) == 1
    assert made.stats.iteration_tokens.total == 41


def test_latencies_are_what_the_steps_took() -> None:
    made = engine()
    made.add([sequence(made, 20, 4), sequence(made, 20, 4, seed=1)], 0.0)
    first, *rest = run(made)
    stats = made.stats
    assert stats.time_to_first_token.total == pytest.approx(2 * first)
    assert stats.inter_token_latency.total == pytest.approx(2 * sum(rest))
    assert sum(stats.inter_token_latency.counts) == 6
    assert stats.e2e_latency.total == pytest.approx(2 * (first + sum(rest)))
