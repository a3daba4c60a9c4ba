"""How `vllm serve` command lines are read, held against Python's argparse, which vLLM's parser is made of."""

import argparse
import functools
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm.engine.flags import Flag, Flags, Takes, flags_version, is_flag, vllm_flags

FLAGS = Flags(vllm_flags())
NARGS = {Takes.NOTHING: 0, Takes.SWITCH: 0, Takes.ONE: None, Takes.OPTIONAL: "?", Takes.MANY: "+"}
VALUES = st.sampled_from(["a", "1", "-1", "-0.5", '{"a": -1}', "", "x=y", "a b", "/p/q.json", "[-1, 2]"])

Seen: TypeAlias = tuple[str, list[str], bool]


class _Record(argparse.Action):
    """Notes each flag in the order in which it is met."""

    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: object, option: str | None = None
    ) -> None:
        listed = values if isinstance(values, list) else [] if values is None else [values]
        namespace.seen.append((self.dest, listed, self.nargs == 0 and str(option).startswith("--no-")))


def _argparse() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    for flag in vllm_flags():
        parser.add_argument(*flag.spellings, dest=flag.name, nargs=NARGS[flag.takes], action=_Record)
    return parser


PARSER = _argparse()


def seen_by_argparse(words: list[str]) -> list[Seen]:
    """What argparse makes of the words once vLLM has put dashes for the underscores of flags."""
    dashed = []
    for word in words:
        name, equals, value = word.partition("=")
        dashed.append((name.replace("_", "-") if name.startswith("--") else name) + equals + value)
    seen: list[Seen] = []
    PARSER.parse_args(dashed, argparse.Namespace(seen=seen))
    return seen


@functools.cache
def abbreviations(spelling: str) -> list[str]:
    """Every beginning of a long spelling that stands for no other."""
    beginnings = [spelling[:end] for end in range(3, len(spelling))]
    alone = [one for one in beginnings if sum(other.startswith(one) for other in FLAGS.spellings) == 1]
    return [spelling, *(one for one in alone if one not in FLAGS.spellings)]


@st.composite
def typed_flags(draw: st.DrawFn) -> list[str]:
    """A flag in any spelling that argparse takes, with as many values as it takes."""
    flag: Flag = draw(st.sampled_from(vllm_flags()))
    spelling = draw(st.sampled_from(flag.spellings))
    if spelling.startswith("--"):
        spelling = draw(st.sampled_from(abbreviations(spelling)))
        if draw(st.booleans()):
            spelling = "--" + spelling[2:].replace("-", "_")
    if flag.takes in (Takes.NOTHING, Takes.SWITCH):
        return [spelling]
    if draw(st.booleans()):
        return [f"{spelling}={draw(VALUES)}"]
    least, most = (0, 1) if flag.takes is Takes.OPTIONAL else (1, 3 if flag.takes is Takes.MANY else 1)
    return [spelling, *draw(st.lists(VALUES, min_size=least, max_size=most))]


@given(st.lists(typed_flags(), max_size=6))
def test_flags_are_read_as_argparse_reads_them(flags: list[list[str]]) -> None:
    words = [word for flag in flags for word in flag]

    items = FLAGS.read(words)

    ours = [(item.flag.name if item.flag else "", list(item.values), item.off) for item in items]
    assert ours == seen_by_argparse(words)


WORDS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(FLAGS.spellings),
    st.builds("{}={}".format, st.sampled_from(FLAGS.spellings), st.text(max_size=4)),
    st.sampled_from(["--", "-", "--x", "--no", "-dp4", "--a.b", "-O3", "--tensor_par"]),
)


@given(st.lists(WORDS, max_size=12))
def test_no_word_is_lost_or_changed(words: list[str]) -> None:
    assert [word for item in FLAGS.read(words) for word in item.words] == words


@pytest.mark.parametrize(
    ("word", "name", "values"),
    [
        ("-tp", "--tensor-parallel-size", ("2",)),
        ("-t", "--tensor-parallel-size", ("2",)),
        ("--tensor-parallel", "--tensor-parallel-size", ("2",)),
        ("--tensor_parallel_size", "--tensor-parallel-size", ("2",)),
        ("-tp=4", "--tensor-parallel-size", ("4",)),
        ("-O3", "--optimization-level", ("3",)),
        ("-O=3", "--optimization-level", ("3",)),
        ("-O", "--optimization-level", ("2",)),
        ("-n4", "--nnodes", ("4",)),
        ("-cc.mode", "--compilation-config", ("2",)),
        ("-cc.mode=3", "--compilation-config", ("3",)),
        ("--kv-events-config.topic", "--kv-events-config", ("2",)),
        ("--kv_events_config.buffer_steps=5", "--kv-events-config", ("5",)),
        ("--no-enable-prefix-caching", "--enable-prefix-caching", ()),
        ("--device-memory-utilization", "--gpu-memory-utilization", ("2",)),
    ],
)
def test_a_flag_is_known_in_each_of_its_forms(word: str, name: str, values: tuple[str, ...]) -> None:
    item = FLAGS.read([word, "2", "MODEL"])[0]

    assert item.flag is not None
    assert (item.flag.name, item.values) == (name, values)


def test_an_ambiguous_abbreviation_tells_what_it_may_mean() -> None:
    assert FLAGS.read(["--master"])[0].candidates == ("--master-addr", "--master-port")


def test_an_unknown_flag_is_given_the_words_up_to_the_next_flag() -> None:
    items = FLAGS.read(["--of-the-future", "a", "-1", "--port", "8000"])

    assert [item.words for item in items] == [("--of-the-future", "a", "-1"), ("--port", "8000")]
    assert items[0].flag is None


def test_an_unknown_flag_with_its_value_joined_takes_no_further_word() -> None:
    assert [item.words for item in FLAGS.read(['--new={"a": 1}', "m"])] == [('--new={"a": 1}',), ("m",)]


@pytest.mark.parametrize("word", ["-tp", "--x", "--x=a b", "-q=awq", "--"])
def test_a_word_that_begins_with_a_dash_is_a_flag(word: str) -> None:
    assert is_flag(word)


@pytest.mark.parametrize("word", ["", "-", "-1", "-.5", "-a b", "m", '{"a": "--x"}'])
def test_numbers_and_text_are_no_flags(word: str) -> None:
    assert not is_flag(word)


def test_further_flags_make_no_abbreviation_ambiguous() -> None:
    flags = Flags(vllm_flags(), further=[Flag("--api-key-file", Takes.ONE), Flag("--porter", Takes.ONE)])

    key, file, porter = flags.read(["--api-k=a", "--api-key-f=b", "--porte=c"])

    assert key.flag is not None and key.flag.name == "--api-key"
    assert file.flag is not None and file.flag.name == "--api-key-file"
    assert porter.flag is not None and porter.flag.name == "--porter"


def test_the_table_says_which_vllm_it_was_read_from() -> None:
    assert flags_version().startswith("0.")
