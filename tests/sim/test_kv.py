"""Blocks of KV cache, checked against the rules they are to keep."""

from array import array

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dp_vllm.sim import kv

SIZE = 8


def hashes(text: str) -> list[int]:
    return kv.chain(array("I", map(ord, text)), 2, kv.root())


def test_a_chain_has_one_hash_for_each_full_block() -> None:
    assert len(hashes("abcde")) == 2


def test_a_block_is_known_only_after_the_same_blocks() -> None:
    assert hashes("abcd")[0] == hashes("abxy")[0]
    assert hashes("abcd")[1] != hashes("xycd")[1]


def test_adapters_and_salts_share_nothing() -> None:
    ids = array("I", [1, 2])
    assert kv.chain(ids, 2, kv.root("adapter")) != kv.chain(ids, 2, kv.root(""))


def test_released_blocks_are_found_until_they_are_needed() -> None:
    cache, chain = kv.BlockCache(3), hashes("abcd")
    blocks = cache.take(2)
    for block, value in zip(blocks, chain, strict=True):
        cache.remember(block, value)
    cache.release(blocks)
    assert cache.usage == 0.0
    assert cache.find(chain) == blocks
    cache.take(2)
    assert cache.find(chain) == blocks[:1], "of a sequence the last blocks go first"


def test_held_blocks_are_not_given_away() -> None:
    cache, chain = kv.BlockCache(2), hashes("ab")
    (block,) = cache.take(1)
    cache.remember(block, chain[0])
    assert cache.spare_beside([block]) == 1
    cache.release([block])
    assert cache.spare_beside([block]) == 1
    cache.hold([block])
    assert cache.take(1) != [block]


def test_prefixes_are_forgotten_only_when_nobody_holds_a_block() -> None:
    cache, chain = kv.BlockCache(2), hashes("ab")
    blocks = cache.take(1)
    cache.remember(blocks[0], chain[0])
    assert not cache.forget_all()
    cache.release(blocks)
    assert cache.forget_all()
    assert cache.find(chain) == []


class Machine(RuleBasedStateMachine):
    """Sequences come and go; no block is ever held by two that do not share its prefix, or lost."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = kv.BlockCache(SIZE)
        self.held: list[tuple[list[int], list[int]]] = []

    @rule(text=st.text("ab", min_size=2, max_size=2 * SIZE))
    def admit(self, text: str) -> None:
        chain = hashes(text)
        found = self.cache.find(chain)
        need = len(chain) - len(found)
        if need > self.cache.spare_beside(found):
            return
        self.cache.hold(found)
        blocks = found + self.cache.take(need)
        for block, value in zip(blocks, chain, strict=True):
            self.cache.remember(block, value)
        self.held.append((chain, blocks))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        _chain, blocks = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.cache.release(blocks)

    @invariant()
    def every_block_is_held_or_free(self) -> None:
        held = {block for _chain, blocks in self.held for block in blocks}
        assert len(held) + self.cache.free == SIZE

    @invariant()
    def what_is_held_by_two_is_the_same_prefix(self) -> None:
        contents: dict[int, int] = {}
        for chain, blocks in self.held:
            for block, value in zip(blocks, chain, strict=True):
                assert contents.setdefault(block, value) == value


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=50, stateful_step_count=20)
