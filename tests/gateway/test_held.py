"""Prompts that no engine should have yet wait in the gateway, and none is refused for that."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import programs
import pytest
import scripted
import wire
from programs import Program
from scripted import END, STREAM, Asked, Engine, Peer, event, said

TOKENS = 40_000
"""Of a long prompt: 2.7 seconds of reading, as the gateway takes it."""


@dataclass
class Reads:
    """A script that has read a prompt when it is told so, one at a time, and then answers for as long as the test."""

    read: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    ended: threading.Event = field(default_factory=threading.Event)

    def __call__(self, peer: Peer, asked: Asked) -> None:
        peer.send(STREAM)
        assert self.read.acquire(timeout=programs.START_SECONDS)
        peer.send(event(said("a")))
        assert self.ended.wait(programs.START_SECONDS)
        peer.send(event(said("b", "stop")), event(b"[DONE]"), END)


@dataclass
class Scene:
    """A gateway before engines that read slowly, and clients."""

    program: Program
    admin: str
    reads: Reads
    lines: list[wire.Line] = field(default_factory=list)

    def ask(
        self,
        name: str,
        tokens: int = TOKENS,
        *,
        stream: bool = True,
        key: str = "",
        priority: int = 0,
        path: str = "/v1/completions",
        encoding: str = "identity",
    ) -> wire.Line:
        """Send a request, and wait until the gateway has it. Prompts of different names share nothing."""
        before = self.known()
        self.lines.append(line := wire.Line(self.program.url))
        body = {"prompt": name + " word" * (tokens * 4 // 5), "stream": stream, "priority": priority}
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}", "x-request-id": name}
        headers["content-encoding"] = encoding
        line.send(wire.request("POST", path, json.dumps(body).encode(), headers))
        programs.wait_until(lambda: self.known() == before + 1, f"{name} is known")
        return line

    def state(self) -> tuple[int, int]:
        """In flight, and waiting."""
        state = wire.ask(self.admin, "GET", "/state").json()
        return state["in_flight"], state["queued"]

    def sent(self) -> list[str]:
        """The requests in the order in which they went to engines, where those that go together arrive in any."""
        return [one["id"] for one in wire.ask(self.admin, "GET", "/decisions").json()["decisions"]]

    def known(self) -> int:
        return sum(self.state())


def names(engine: Engine) -> list[str]:
    """Of the requests that an engine got, in order."""
    return [asked.body.decode().partition('"prompt": "')[2].partition(" ")[0] for asked in engine.asked]


@contextmanager
def scene(tmp_path: Path, engines: int, *flags: str) -> Iterator[tuple[Scene, list[Engine]]]:
    reads, admin = Reads(), tmp_path / "admin"
    with (
        scripted.engine(reads) as first,
        scripted.engine(reads) as second,
        scripted.gateway(tmp_path, [first, second][:engines], "--admin-socket", str(admin), *flags) as program,
    ):
        one = Scene(program, f"unix:{admin}", reads)
        try:
            yield one, [first, second][:engines]
        finally:
            reads.ended.set()
            reads.read.release(1000)
            for line in one.lines:
                line.close()
        programs.wait_until(lambda: one.known() == 0, "nothing is in flight, and nobody waits")


def test_a_short_prompt_goes_before_a_long_one_once_the_engine_has_read_what_it_has(tmp_path: Path) -> None:
    with scene(tmp_path, 1) as (one, [engine]):
        one.ask("reading")
        one.ask("long", 20_000)
        one.ask("short", 500)
        leaving = one.ask("leaving", 400)
        one.ask("after", 2_000, priority=5)
        one.ask("before", 2_000, priority=-5)
        assert one.state() == (1, 5)
        leaving.close()
        programs.wait_until(lambda: one.state() == (1, 4), "it is not waited for any more")
        one.reads.read.release()
        programs.wait_until(
            lambda: len(engine.asked) == 3, lambda: f"{names(engine)} what keeps the engine busy was sent"
        )
        assert one.sent() == ["reading", "before", "short"]
        assert names(engine)[0] == "reading" and set(names(engine)) == set(one.sent())
        one.reads.read.release(2)
        programs.wait_until(lambda: len(engine.asked) == 4, "it has nothing to read")
        assert names(engine)[3] == "long"
        one.reads.read.release()
        programs.wait_until(lambda: names(engine)[4:] == ["after"], "the last one was sent")
        text = wire.ask(one.admin, "GET", "/metrics").body.decode()
        assert 'dp_vllm_requests_total{replica="",route="/v1/completions",status="499"} 1.0' in text


def test_who_waits_goes_to_the_engine_that_is_free_first(tmp_path: Path) -> None:
    with scene(tmp_path, 2) as (one, [first, second]):
        one.ask("a")
        one.ask("b")
        programs.wait_until(lambda: len(first.asked) == len(second.asked) == 1, "each reads one")
        one.ask("c")
        assert one.state() == (2, 1)
        one.reads.read.release()
        programs.wait_until(lambda: len(first.asked) + len(second.asked) == 3, "it was sent")
        decision = wire.ask(one.admin, "GET", "/decisions").json()["decisions"][-1]
        assert decision["queued_seconds"] > 0
        assert [each["expected_wait_seconds"] > 0 for each in decision["candidates"]].count(True) == 1
        assert (
            next(each for each in decision["candidates"] if each["expected_wait_seconds"] == 0)["replica"]
            == (decision["replica"])
        )


@pytest.mark.parametrize("flags", [("--queue-seconds", "0.1"), ("--max-queued-requests", "1")])
def test_what_an_engine_would_take_is_never_refused(tmp_path: Path, flags: tuple[str, str]) -> None:
    with scene(tmp_path, 1, *flags) as (one, [engine]):
        for name in "abc":
            one.ask(name)
        programs.wait_until(lambda: len(engine.asked) >= 2, "it was sent, though nothing has been read")
        one.reads.ended.set()
        one.reads.read.release(3)
        assert [line.answer("POST").status for line in one.lines] == [200] * 3


def test_what_is_not_streamed_is_taken_to_be_read_by_some_time(tmp_path: Path) -> None:
    with scene(tmp_path, 1) as (one, [engine]):
        one.ask("a", 20_000, stream=False)
        one.ask("b", 20_000)
        programs.wait_until(lambda: names(engine) == ["a", "b"], "it was sent, though nothing has been answered")


@pytest.mark.parametrize("flags", [("--replica-ahead-seconds", "3600"), ("--policy", "round-robin")])
def test_nothing_waits_if_engines_may_have_much_or_if_the_policy_minds_no_wait(
    tmp_path: Path, flags: tuple[str, str]
) -> None:
    with scene(tmp_path, 1, *flags) as (one, _):
        for name in "abc":
            one.ask(name)
        assert one.state() == (3, 0)


def test_one_key_s_many_do_not_keep_another_s_few_waiting(tmp_path: Path) -> None:
    with scene(tmp_path, 1, "--api-key", "many", "--api-key", "few") as (one, [engine]):
        one.ask("reading", key="many")
        for number in range(6):
            one.ask(f"many-{number}", 3_000, key="many")
        one.ask("few", 6_000, key="few")
        for _ in range(4):
            one.reads.read.release()
        programs.wait_until(lambda: "few" in one.sent()[:4], "though it is longer, its key's turn comes second")
        programs.wait_until(lambda: "few" in names(engine), "it arrives")


def test_a_prompt_waits_whatever_its_encoding_is_called_and_whatever_its_path(tmp_path: Path) -> None:
    with scene(tmp_path, 1) as (one, _):
        one.ask("reading")
        one.ask("identity", 20_000)
        one.ask("gzip", 20_000, encoding="gzip")
        one.ask("unknown", 20_000, path="/v1/of/a/plugin")
        assert one.state() == (1, 3)
