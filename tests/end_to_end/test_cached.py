"""Turns of a conversation go where their beginning is cached, and the engine confirms what the gateway believed."""

import inspect
import itertools
import textwrap
from typing import NamedTuple

import deployments
import pytest
from programs import wait_until
from wire import ask

from dp_vllm_gateway.routing.blocks import BLOCK_BYTES

ENGINES = ["sim", pytest.param("vllm", marks=pytest.mark.vllm)]
TEXT = inspect.getsource(textwrap)
FIRST_BYTES, NEXT_BYTES, ANSWER_TOKENS, BLOCK_TOKENS = 1500, 700, 16, 32
TURNS = 3


class Turn(NamedTuple):
    """What became of one turn."""

    replica: str
    believed_tokens: float
    """Taken to be cached, in the engine's tokens."""
    cached_tokens: int
    prompt_tokens: int
    prompt_bytes: int


class Conversation:
    """Its first message is of the text at this place."""

    def __init__(self, url: str, place: int) -> None:
        self._url, self._place = url, place
        self._messages: list[dict[str, str]] = []

    def turn(self) -> Turn:
        size = NEXT_BYTES if self._messages else FIRST_BYTES
        self._messages.append({"role": "user", "content": TEXT[self._place : self._place + size]})
        self._place += size
        fields = {"messages": self._messages, "max_tokens": ANSWER_TOKENS, "ignore_eos": True, "temperature": 0}
        answer = ask(self._url, "POST", "/v1/chat/completions", {"model": deployments.MODEL, **fields})
        assert answer.status == 200, answer.body
        usage, reason = answer.json()["usage"], answer.headers["x-dp-vllm-reason"].split()
        share = float(reason[1]) if reason[0] == "prefix" else 0.0
        before = sum(len(message["content"]) for message in self._messages)
        self._messages.append(answer.json()["choices"][0]["message"])
        cached = (usage["prompt_tokens_details"] or {}).get("cached_tokens") or 0
        prompt: int = usage["prompt_tokens"]
        return Turn(answer.replica or "", share * prompt, cached, prompt, before)


def hits(url: str, replica: str) -> float:
    """Prompt tokens that this engine says it found in its cache, as the gateway last saw."""
    lines: list[str] = ask(url, "GET", "/metrics").body.decode().splitlines()
    own = [
        each for each in lines if each.startswith("vllm:prefix_cache_hits_total{") and f'replica="{replica}"' in each
    ]
    return sum(float(each.split()[-1]) for each in own)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_was_believed_to_be_cached_is_what_the_engine_finds(engine: str) -> None:
    flags = ("--enable-prompt-tokens-details", "--block-size", str(BLOCK_TOKENS))
    with deployments.serve(*flags, engine=engine, replicas=2) as served:
        conversations = [Conversation(served.url, place) for place in (0, len(TEXT) // 2)]
        turns: list[list[Turn]] = [[], []]
        for _, (told, conversation) in itertools.product(range(TURNS), zip(turns, conversations, strict=True)):
            told.append(conversation.turn())
        homes = [{turn.replica for turn in told} for told in turns]
        assert sorted(map(sorted, homes)) == [["0"], ["1"]], "each conversation has a replica of its own, and stays"
        for first, *later in turns:
            assert (first.believed_tokens, first.cached_tokens) == (0, 0)
            for turn in later:
                # what is cached ends with the answer before, what is believed with a block of the prompt before that
                block = BLOCK_BYTES / turn.prompt_bytes * turn.prompt_tokens
                more = turn.cached_tokens - turn.believed_tokens
                assert turn.believed_tokens > 0
                assert -BLOCK_TOKENS < more < block + 2 * ANSWER_TOKENS + 0.01 * turn.prompt_tokens, turn

        def is_confirmed() -> bool:
            return all(hits(served.url, told[0].replica) == sum(turn.cached_tokens for turn in told) for told in turns)

        wait_until(is_confirmed, "the engines' own counters say the same")
