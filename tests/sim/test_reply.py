"""What the simulated engine says."""

from dp_vllm.sim import tokens
from dp_vllm.sim.reply import Reply, seed_of

PROMPT = tokens.encode("hello")


def reply(length: int = 60, seed: int = 0, index: int = 0) -> Reply:
    return Reply("demo/model", seed_of(PROMPT, seed, index), length, "length")


def test_it_says_that_no_model_was_run() -> None:
    assert reply().text(0, 60).startswith("This is a simulated answer from demo/model; no model was run.")


def test_the_same_prompt_and_seed_give_the_same_words() -> None:
    assert reply().text(0, 60) == reply().text(0, 60)
    assert len({reply().text(0, 60), reply(seed=1).text(0, 60), reply(index=1).text(0, 60)}) == 3


def test_its_tokens_are_those_of_its_text() -> None:
    assert reply().tokens(0, 60) == tokens.encode(reply().text(0, 60))


def test_pieces_make_up_the_whole() -> None:
    pieces = [reply().escaped(index, index + 1) for index in range(60)]
    assert b"".join(pieces).decode() == reply().text(0, 60)
    assert reply().escaped(3, 60) == b"".join(pieces[3:])


def test_a_quoted_model_name_is_escaped() -> None:
    named = Reply('a"b', 0, 20, "length")
    assert b"".join(named.escaped(index, index + 1) for index in range(20)) == named.escaped(0, 20)
    assert b'a\\"b' in named.escaped(0, 20)


def test_a_stop_string_ends_it_and_is_hidden() -> None:
    stopped = reply()
    stopped.stop_at(["lated ans"], (), include=False, at_least=0)
    assert stopped.text(0, stopped.length) == "This is a simu"
    assert (stopped.finish, stopped.stop) == ("stop", "lated ans")


def test_a_stop_string_can_be_shown() -> None:
    stopped = reply()
    stopped.stop_at(["lated ans", "no such"], (), include=True, at_least=0)
    assert stopped.text(0, stopped.length) == "This is a simulated ans"


def test_the_streamed_pieces_of_a_stopped_reply_show_no_more_than_its_text() -> None:
    stopped = reply()
    stopped.stop_at(["lated ans"], (), include=False, at_least=0)
    pieces = [stopped.escaped(index, index + 1) for index in range(stopped.length)]
    assert b"".join(pieces) == b"This is a simu"


def test_a_stop_token_ends_it() -> None:
    stopped = reply()
    third = stopped.tokens(2, 3)[0]
    stopped.stop_at([], [third], include=False, at_least=0)
    assert (stopped.text(0, stopped.length), stopped.length, stopped.stop) == ("This is", 3, third)


def test_a_stop_string_before_the_least_length_is_passed_over() -> None:
    stopped = reply()
    stopped.stop_at(["This is"], (), include=False, at_least=10)
    assert stopped.length == 60
