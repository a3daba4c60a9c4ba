"""What an engine's cache is taken to hold."""

from hypothesis import given
from hypothesis import strategies as st

from dp_vllm_gateway.routing.blocks import BLOCK_BYTES, MOST_BLOCKS, blocks_of
from dp_vllm_gateway.routing.remembered import KEPT, Remembered

PROMPTS = st.lists(st.text("ab", max_size=6), max_size=40)


def chained(text: str) -> list[int]:
    """One block a letter."""
    return [hash(text[: end + 1]) for end in range(len(text))]


class Plain:
    """The same, as plainly as can be: a list of beginnings, the one unused for longest first."""

    def __init__(self, capacity: int) -> None:
        self.most = int(capacity * KEPT)
        self.held: list[str] = []

    def add(self, text: str) -> None:
        for end in range(len(text), 0, -1):
            self.held = [one for one in self.held if one != text[:end]] + [text[:end]]
        self.held = self.held[-self.most :]

    def depth(self, text: str) -> int:
        return max((len(one) for one in self.held if text.startswith(one)), default=0)


@given(PROMPTS, st.integers(1, 12), st.text("ab", max_size=7))
def test_it_holds_what_was_sent_last_and_beginnings_longest(prompts: list[str], capacity: int, asked: str) -> None:
    remembered, plain = Remembered(capacity), Plain(capacity)
    for prompt in prompts:
        remembered.add(chained(prompt))
        plain.add(prompt)
        assert len(remembered) == len(plain.held) <= plain.most
        assert remembered.depth(chained(asked)) == plain.depth(asked)
    remembered.forget()
    assert remembered.depth(chained(asked)) == len(remembered) == 0


def test_it_becomes_smaller_with_the_next_prompt() -> None:
    remembered = Remembered(10)
    remembered.add(chained("aaaaaa"))
    remembered.capacity = 2
    remembered.add(chained("b"))
    assert (len(remembered), remembered.depth(chained("aaaaaa")), remembered.depth(chained("b"))) == (3, 2, 1)


@given(st.binary(max_size=5 * BLOCK_BYTES), st.binary(max_size=5 * BLOCK_BYTES), st.integers(0, 5 * BLOCK_BYTES))
def test_two_texts_share_as_many_blocks_as_their_beginnings_are_alike(one: bytes, other: bytes, cut: int) -> None:
    other = one[:cut] + other
    alike = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    pairs = zip(blocks_of(one), blocks_of(other), strict=False)
    assert sum(a == b for a, b in pairs) == alike // BLOCK_BYTES
    assert len(blocks_of(one)) == len(one) // BLOCK_BYTES
    assert not set(blocks_of(one)) & set(blocks_of(other, b"seed"))


def test_hashing_has_an_end() -> None:
    assert len(blocks_of(b"x" * (MOST_BLOCKS + 2) * BLOCK_BYTES)) == MOST_BLOCKS
