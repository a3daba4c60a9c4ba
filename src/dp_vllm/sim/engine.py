"""The engine's model of time, and its scheduler: continuous batching as vLLM's V1 core does it.

Time goes in steps. A step computes tokens of many sequences at once and takes

    decode_step_seconds
    + decode_growth_seconds x sequences that decode one token
    + prompt tokens computed / prefill_tokens_per_second

At its end each sequence whose tokens are all computed has one token more. Who takes part is decided when it begins:

1. Running sequences, oldest first, each up to all its uncomputed tokens, while the step's budget
   (`max_num_batched_tokens`) lasts; so a long prompt is computed in chunks, beside others' decoding.
2. Then waiting sequences, first come first served, while there are fewer than `max_num_seqs` running, budget is left
   and the KV blocks suffice. Prompt blocks found in the prefix cache are not computed again, except the last token.
3. If a running sequence needs a block and none is free, the youngest running one is preempted: it gives its blocks
   back, goes to the head of the queue and is computed anew later.

What is left out: speculative decoding, encoders, pipeline bubbles, the cost of attention over long contexts, and the
CPU time of a real engine between its steps. Pure: it is told the time and never waits; `steps` runs it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from dp_vllm.sim import kv
from dp_vllm.sim.sequence import Place, Sequence
from dp_vllm.sim.stats import Stats


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes of the engine, as vLLM's flags name them."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    block_size: int
    blocks: int
    prefix_caching: bool
    max_num_queued_reqs: int = -1
    """-1: as many as come."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a step takes; see the module's docstring."""

    prefill_tokens_per_second: float
    decode_step_seconds: float
    decode_growth_seconds: float

    def step_seconds(self, decoding: int, prefilled: int) -> float:
        """Length of a step that decodes for so many sequences and computes so many prompt tokens."""
        return (
            self.decode_step_seconds
            + self.decode_growth_seconds * decoding
            + prefilled / self.prefill_tokens_per_second
        )


class Engine:
    """All sequences of one engine, and the only one who changes them."""

    def __init__(self, limits: Limits, pace: Pace) -> None:
        self.limits = limits
        self.pace = pace
        self.stats = Stats(limits.max_model_len)
        self.cache = kv.BlockCache(limits.blocks)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._batch: list[Sequence] = []
        self._ended_at = -1.0

    def busy_for(self, sequences: int) -> bool:
        """Whether so many more would make the queue longer than `max_num_queued_reqs`; such a request is refused."""
        limit = self.limits.max_num_queued_reqs
        if limit < 0:
            return False
        places = self.limits.max_num_seqs - len(self.running)
        refused = len(self.waiting) + sequences - places > limit
        self.stats.rejected["max_num_queued_reqs"] += refused
        return refused

    def add(self, sequences: Iterable[Sequence], now: float) -> None:
        """Put new sequences at the end of the queue."""
        for sequence in sequences:
            sequence.place, sequence.arrived = Place.WAITING, now
            self.waiting.append(sequence)

    def abort(self, sequences: Iterable[Sequence]) -> None:
        """Forget sequences whose client has left. As in vLLM, no counter says so."""
        for sequence in sequences:
            self._drop(sequence)

    def end_all(self, finish: str, only: Collection[str] | None = None) -> None:
        """End every sequence at once for this reason, or those of the requests with the ids `only`."""
        for sequence in [*self.running, *self.waiting]:
            if only is not None and sequence.request_id not in only:
                continue
            self._drop(sequence)
            self.stats.finished[finish] += 1
            sequence.finish = finish
            sequence.sink.end(sequence)

    def begin(self, now: float) -> float | None:
        """Decide the next step; its length in seconds, or None if there is nothing to do."""
        self._batch = []
        budget, decoding, preempted = self._continue_running()
        if not preempted:
            budget = self._admit(budget, now)
        if not self._batch:
            return None
        computed = self.limits.max_num_batched_tokens - budget
        return self.pace.step_seconds(decoding, computed - decoding)

    def finish(self, now: float) -> None:
        """The step's time is over: hand out its tokens."""
        given = prompts = steady = ended = 0
        previous = self._ended_at
        for sequence in self._batch:
            if sequence.place is not Place.RUNNING:
                continue
            sequence.computed += sequence.scheduled
            if sequence.computed >= sequence.next_seal:
                self._seal(sequence)
            if sequence.computed < sequence.known:
                continue
            if sequence.last_at == previous:
                steady += 1
            else:
                prompts += self.stats.count_unsteady(sequence, now)
            sequence.last_at = now
            if sequence.generated + 1 < sequence.reply.length:
                sequence.generated += 1
                sequence.known += 1
                given += 1
                sequence.sink.token(sequence)
            else:
                ended += 1
                self._complete(sequence, now)
                given += sequence.generated > 0
        if given or prompts:
            self.stats.count_step(prompts, given, steady, now - previous)
            self._ended_at = now
        if ended:
            self.running = [sequence for sequence in self.running if sequence.place is Place.RUNNING]

    def forget_prefixes(self) -> bool:
        """Empty the prefix cache; False if a running sequence holds blocks."""
        return self.cache.forget_all()

    def _continue_running(self) -> tuple[int, int, bool]:
        """Schedule what runs already: budget left, sequences that decode, whether one was preempted."""
        budget, decoding, preempted, index, batch = self.limits.max_num_batched_tokens, 0, False, 0, self._batch
        running = self.running
        while index < len(running) and budget:
            sequence = running[index]
            count = sequence.known - sequence.computed
            if count == 1:
                decoding += 1
            elif count > budget:
                count = budget
            if sequence.computed + count > sequence.capacity:
                before = len(running)
                fits = self._grow(sequence, count)
                preempted = preempted or len(running) < before
                if not fits:
                    decoding -= count == 1
                    break
            sequence.scheduled = count
            budget -= count
            batch.append(sequence)
            index += 1
        return budget, decoding, preempted

    def _grow(self, sequence: Sequence, count: int) -> bool:
        """Blocks for `count` more tokens, taken from the youngest if need be; False if it was itself preempted."""
        need = -(-(sequence.computed + count) // self.limits.block_size) - len(sequence.blocks)
        while self.cache.free < need:
            youngest = self.running.pop()
            self._preempt(youngest)
            if youngest is sequence:
                return False
        self._hold(sequence, self.cache.take(need))
        return True

    def _admit(self, budget: int, now: float) -> int:
        """Let waiting sequences in; the budget that is left."""
        limits, size = self.limits, self.limits.block_size
        while self.waiting and budget and len(self.running) < limits.max_num_seqs:
            sequence = self.waiting[0]
            found = self.cache.find(sequence.hashes[: (sequence.known - 1) // size])
            hit = len(found) * size
            count = min(sequence.known - hit, budget)
            need = -(-(hit + count) // size) - len(found)
            if need > self.cache.spare_beside(found):
                break
            self.waiting.popleft()
            self.cache.hold(found)
            self._hold(sequence, found + self.cache.take(need))
            sequence.sealed, sequence.next_seal = len(found), hit + size
            sequence.computed, sequence.scheduled, sequence.place = hit, count, Place.RUNNING
            if not sequence.admitted:
                sequence.admitted, sequence.cached = now, hit
                self.stats.count_admitted(sequence, now, cache=limits.prefix_caching)
            self.running.append(sequence)
            self._batch.append(sequence)
            budget -= count
        return budget

    def _hold(self, sequence: Sequence, blocks: list[int]) -> None:
        sequence.blocks += blocks
        sequence.capacity = len(sequence.blocks) * self.limits.block_size

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        sequence.place = Place.WAITING
        self.waiting.appendleft(sequence)
        self.stats.preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self.cache.release(sequence.blocks)
        sequence.blocks, sequence.capacity, sequence.computed = [], 0, 0

    def _drop(self, sequence: Sequence) -> None:
        if sequence.place is Place.WAITING:
            self.waiting.remove(sequence)
        elif sequence.place is Place.RUNNING:
            self.running.remove(sequence)
            self._release(sequence)
        sequence.place = Place.ENDED

    def _seal(self, sequence: Sequence) -> None:
        """Give the blocks that were filled to the prefix cache."""
        size = self.limits.block_size
        full = sequence.computed // size
        sequence.next_seal = (full + 1) * size
        if not self.limits.prefix_caching:
            return
        for place in range(sequence.sealed, full):
            if place == len(sequence.hashes):
                sequence.hashes.append(self._hash_of(sequence, place))
            self.cache.remember(sequence.blocks[place], sequence.hashes[place])
        sequence.sealed = full

    def _hash_of(self, sequence: Sequence, place: int) -> int:
        """The hash of a block that holds generated tokens."""
        size, length = self.limits.block_size, len(sequence.prompt)
        start, end = place * size, (place + 1) * size
        block = sequence.prompt[start:end]
        block.extend(sequence.reply.tokens(max(start, length) - length, end - length))
        return kv.link(sequence.hashes[-1] if sequence.hashes else sequence.root, block.tobytes())

    def _complete(self, sequence: Sequence, now: float) -> None:
        """The last token is there: the sequence leaves, `running` is put right by the caller."""
        sequence.generated = sequence.reply.length
        self.cache.release(sequence.blocks)
        sequence.place, sequence.blocks = Place.ENDED, []
        sequence.finish = sequence.reply.finish
        self.stats.count_completed(sequence, now)
        sequence.sink.end(sequence)
