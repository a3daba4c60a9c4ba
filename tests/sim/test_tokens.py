"""Text becomes tokens and comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm.sim import tokens


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    assert tokens.decode(tokens.encode(text)) == text.encode("utf-8", "replace").decode()


@given(st.text(), st.text())
def test_a_shared_prefix_shares_its_tokens_up_to_the_word_it_ends_in(prefix: str, rest: str) -> None:
    one, other = tokens.encode(f"{prefix} {rest}"), tokens.encode(f"{prefix} something else")
    shared = len(tokens.encode(prefix))
    assert one[:shared] == other[:shared] == tokens.encode(prefix)


def test_a_short_word_with_its_space_is_one_token() -> None:
    assert tokens.pieces(b"all the words") == [b"all", b" the", b" wor", b"ds"]


@given(st.integers(0, tokens.VOCABULARY_SIZE - 1))
def test_every_id_below_the_size_of_the_vocabulary_is_a_token(token: int) -> None:
    assert tokens.id_of(tokens.piece_of(token)) == token


def test_a_number_that_is_no_id_is_refused() -> None:
    with pytest.raises(ValueError, match="not below"):
        tokens.decode([tokens.VOCABULARY_SIZE])
