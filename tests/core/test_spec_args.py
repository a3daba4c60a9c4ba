"""The flags that a DPModel's `engine.args` may not have, in every spelling that vLLM's parser takes."""

import argparse
import contextlib
from collections.abc import Iterator
from typing import Final, NoReturn

import pytest

from dp_vllm.engine.flags import Takes, vllm_flags
from dp_vllm.spec import owned_flags

_NARGS: Final[dict[Takes, int | str | None]] = {
    Takes.NOTHING: 0,
    Takes.SWITCH: 0,
    Takes.ONE: None,
    Takes.OPTIONAL: "?",
    Takes.MANY: "+",
}


class Note(argparse.Action):
    """Notes which flag was meant, written out."""

    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: object, option: str | None = None
    ) -> None:
        namespace.meant = option


class Parser(argparse.ArgumentParser):
    """Python's own, which vLLM's is made of."""

    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentError(None, message)


def vllm_parser() -> Parser:
    made = Parser()
    for flag in vllm_flags():
        made.add_argument(*flag.spellings, action=Note, nargs=_NARGS[flag.takes], dest="meant")
    return made


def abbreviations() -> Iterator[str]:
    """What may stand for a flag: each spelling, cut anywhere; only some of flags that nobody owns."""
    seen = set()
    for flag in vllm_flags():
        step = 1 if any(owned.has(flag.name) for owned in owned_flags.OWNED) else 5
        for spelling in flag.spellings:
            seen |= {spelling[:end] for end in range(len(spelling), 1, -step)}
    yield from sorted(seen - {"--"})


def meant(typed: str, parser: Parser) -> str:
    """The flag that vLLM takes a word for, written out; empty if it takes it for none."""
    for words in ([typed], [typed, "1"]):
        with contextlib.suppress(argparse.ArgumentError):
            return parser.parse_known_args(words)[0].meant or ""
    return ""


def test_every_abbreviation_is_taken_for_what_vllm_takes_it_for() -> None:
    parser = vllm_parser()
    long = {spelling: flag.name for flag in vllm_flags() for spelling in (flag.name, *flag.also)}
    understood = {typed: flag for typed in abbreviations() if (flag := meant(typed, parser))}

    assert len(understood) > 500
    for typed, flag in understood.items():
        owned = any(owned.has(long.get(flag, flag)) for owned in owned_flags.OWNED)
        assert (owned_flags.refusal((typed,)) is not None) == owned, (typed, flag)


@pytest.mark.parametrize(
    ("args", "number", "instead"),
    [
        (["-tp", "2"], 0, "spec.tensorParallelSize"),
        (["-tp2"], 0, "spec.tensorParallelSize"),
        (["-tp=2"], 0, "spec.tensorParallelSize"),
        (["--seed", "1", "--tensor-parallel-size=2"], 2, "spec.tensorParallelSize"),
        (["--tensor_parallel-size", "2"], 0, "spec.tensorParallelSize"),
        (["--tens=2"], 0, "spec.tensorParallelSize"),
        (["-pp", "2"], 0, "spec.pipelineParallelSize"),
        (["-dp", "4"], 0, "spec.replicas"),
        (["-dpl", "4"], 0, "spec.replicas"),
        (["--data_parallel_of_tomorrow"], 0, "spec.replicas"),
        (["--data-para", "4"], 0, "spec.replicas"),
        (["--api-key", "secret"], 0, "spec.apiKeySecretRef"),
        (["--served_model_name", "m"], 0, "spec.servedModelName"),
        (["--model", "m"], 0, "spec.model"),
        (["--hf-token", "secret"], 0, "spec.hfTokenSecretRef"),
        (["--port", "8000"], 0, "spec.gateway.service"),
        (["--ssl-keyfile", "k"], 0, "Ingress"),
        (["--shutdown-timeout", "9"], 0, "spec.rollout.drainTimeoutSeconds"),
        (["--allowed-origins", "[]"], 0, "spec.gateway.allowedOrigins"),
        (["-n2"], 0, "one pod on one node"),
        (["-pcp", "2"], 0, "leave it out"),
        (["--no-enable-server-load-tracking"], 0, "leave it out"),
        (["-h"], 0, "leave it out"),
        (["--h", "0.0.0.0"], 0, "--host"),
        (["--max-model-len 8192"], 0, "two items"),
        (["--seed", "1", "--"], 2, "leave it out"),
        (["org/model"], 0, "spec.model"),
    ],
)
def test_a_refusal_says_which_and_what_to_use_instead(args: list[str], number: int, instead: str) -> None:
    refused = owned_flags.refusal(args)

    assert refused is not None
    assert refused[0] == number
    assert instead in refused[1]


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--max-model-len", "8192", "-q", "fp8", "-O3", "-dcp", "2", "--enable-expert-parallel"],
        ["--enable-server-load-tracking", "--hostile", "--portable=1", "--modelling"],
        ["--hf-overrides", '{"a": 1}', "--seed", "-1"],
        ["--flag-of-tomorrow", "1", "--tensor-of-tomorrow=2"],
    ],
)
def test_other_flags_are_the_engines(args: list[str]) -> None:
    assert owned_flags.refusal(args) is None
