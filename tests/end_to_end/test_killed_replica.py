"""kill -9 of one of two engines under load: what clients see of it, the same with the simulated engine and the real."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import deployments
import openai
import programs
import pytest

ENGINES = ["sim", pytest.param("vllm", marks=pytest.mark.vllm)]
STREAMS, ASKERS = 8, 4
STREAM_TOKENS = 600
UNHURRIED = {"sim": ("--sim-decode-step-seconds", "0.015")}
"""A stream takes nine seconds: on a busy machine a shorter one may have ended before anything is killed."""


@dataclass(slots=True)
class Stream:
    """A stream as its reader saw it, written by that reader's thread alone."""

    replica: str = ""
    begun: threading.Event = field(default_factory=threading.Event)
    ended: str = ""
    """A finish reason, or the error's name."""


def read(client: openai.OpenAI, stream: Stream) -> None:
    """Read one long stream to its end."""
    with client.chat.completions.with_streaming_response.create(
        model=deployments.MODEL,
        messages=[{"role": "user", "content": "tell me a long story"}],
        max_tokens=STREAM_TOKENS,
        stream=True,
        extra_body={"ignore_eos": True},
    ) as response:
        stream.replica = response.headers["x-dp-vllm-replica"]
        try:
            for chunk in response.parse():
                stream.begun.set()
                stream.ended = chunk.choices[0].finish_reason or ""
        except openai.APIError as error:
            stream.ended = type(error).__name__


def ask(client: openai.OpenAI) -> str:
    """Ask a short question, which must be answered; the name of the replica that did."""
    response = client.chat.completions.with_raw_response.create(
        model=deployments.MODEL, messages=[{"role": "user", "content": "hello"}], max_tokens=8
    )
    assert response.parse().choices
    return response.headers["x-dp-vllm-replica"]


def ask_on(client: openai.OpenAI, begun: threading.Event, enough: threading.Event) -> Counter[str]:
    """Ask one question after the other until it is enough; how many each replica answered."""
    answered = Counter[str]()
    while not enough.is_set():
        answered[ask(client)] += 1
        begun.set()
    return answered


@pytest.mark.parametrize("engine", ENGINES)
def test_only_streams_in_flight_on_it_are_lost_and_the_replica_comes_back(engine: str) -> None:
    asking, enough = threading.Event(), threading.Event()
    streams = [Stream() for _ in range(STREAMS)]
    with (
        deployments.serve(*UNHURRIED.get(engine, ()), engine=engine, replicas=2) as served,
        openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0) as client,
        ThreadPoolExecutor(STREAMS + ASKERS) as threads,
    ):
        to_be_killed = served.engine("0")
        readers = [threads.submit(read, client, stream) for stream in streams]
        for stream in streams:  # before anybody asks: on a busy machine some would have ended when the last begins
            assert stream.begun.wait(programs.START_SECONDS)
        askers = [threads.submit(ask_on, client, asking, enough) for _ in range(ASKERS)]
        try:
            assert asking.wait(programs.START_SECONDS)
            to_be_killed.kill()
            for reader in readers:
                reader.result()
        finally:
            enough.set()
        answered = sum((asker.result() for asker in askers), Counter())
        assert answered["1"], "the other one went on answering"
        ends = Counter((stream.replica, stream.ended) for stream in streams)
        assert set(ends) == {("0", "APIError"), ("1", "length")}, ends
        served.await_ready(2, times=2)
        programs.wait_until(lambda: ask(client) == "0", "the replica that was killed answers again")
