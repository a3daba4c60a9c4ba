"""Which words are the endpoint's and which the engine's, however they are spelled."""

import functools

from hypothesis import given
from hypothesis import strategies as st
from local.flags.asked import asked

from dp_vllm.engine.flags import Takes
from dp_vllm.local.flags.settings import SETTINGS, Setting
from dp_vllm.local.flags.split import FLAGS

ENGINE_FLAGS = st.sampled_from(
    [
        ["--max-model-len", "8K"],
        ["--max_model_len=8K"],
        ["--max-model-l", "auto"],
        ["--no-enable-prefix-caching"],
        ["--served-model-name", "a", "b"],
        ["--allowed-media-domains", "example.org"],
        ["--kv-events-config", '{"publisher": "zmq"}'],
        ["--kv-events-config.topic", "x"],
        ["--middleware", "a.b", "--middleware", "c.d"],
        ["--hf-token"],
        ["-O3"],
        ["-q", "awq"],
        ["--of-the-future", "1", "-1"],
        ["--of-the-future=x y"],
    ]
)
VALUES = {
    "--engine": "sim",
    "--device-ids": "0,1",
    "--ssl-cert-reqs": "2",
    "--allowed-origins": '["*"]',
    "--allowed-methods": "[]",
    "--allowed-headers": "[]",
    "--policy": "round-robin",
    "--root-path": "/m",
    "--log-format": "json",
}


@functools.cache
def abbreviations(spelling: str) -> tuple[str, ...]:
    """The spelling, and every beginning of it that no other flag has."""
    beginnings = [spelling[:end] for end in range(4, len(spelling))]
    return (spelling, *(one for one in beginnings if sum(other.startswith(one) for other in FLAGS.spellings) == 1))


@st.composite
def our_flags(draw: st.DrawFn) -> tuple[Setting, list[str]]:
    """A flag of ours in any spelling, with a value that is allowed. (Not those that need others, or forbid some.)"""
    names = [name for name in SETTINGS if not name.startswith(("--ssl", "--api", "--file", "--record"))]
    setting = SETTINGS[draw(st.sampled_from(names))]
    spelling = draw(st.sampled_from(setting.flag.spellings))
    if spelling.startswith("--"):
        spelling = draw(st.sampled_from(abbreviations(spelling)))
        if draw(st.booleans()):
            spelling = "--" + spelling[2:].replace("-", "_")
    if setting.takes in (Takes.NOTHING, Takes.SWITCH):
        return setting, [spelling]
    value = VALUES.get(setting.name, "7")
    return setting, [f"{spelling}={value}"] if draw(st.booleans()) else [spelling, value]


@given(st.lists(st.one_of(ENGINE_FLAGS.map(lambda words: (None, words)), our_flags()), max_size=8))
def test_ours_are_caught_in_every_spelling_and_the_engines_stay_as_typed(
    flags: list[tuple[Setting | None, list[str]]],
) -> None:
    got = asked("MODEL", *(word for _, words in flags for word in words))

    assert got.model == "MODEL"
    assert got.engine_words == tuple(word for setting, words in flags if setting is None for word in words)
    assert not got.engine_flags & SETTINGS.keys()
    for setting, _ in flags:
        if setting is not None and setting.field and setting.takes is Takes.ONE:
            assert getattr(got.settings, setting.field) == setting.read(VALUES.get(setting.name, "7"))
