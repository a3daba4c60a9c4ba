"""Requests that wait because every replica has as much in flight as it may."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import programs
import pytest
import scripted
import wire
from programs import Program
from scripted import FINE, Asked, Engine, Peer

BUSY = ("--max-replica-sequences", "1")


@dataclass
class Held:
    """A script that answers when it is told to, one request at a time."""

    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __call__(self, peer: Peer, asked: Asked) -> None:
        assert self.go.acquire(timeout=programs.START_SECONDS)
        FINE(peer, asked)


@dataclass
class Scene:
    """A gateway before one engine that takes one request at a time, and clients."""

    program: Program
    admin: str
    engine: Engine
    held: Held
    lines: list[wire.Line] = field(default_factory=list)

    def ask(self, prompt: str, **headers: str) -> wire.Line:
        """Send a request and wait until the gateway has it."""
        before = self.known()
        line = wire.Line(self.program.url)
        self.lines.append(line)
        body = b'{"prompt": "%b"}' % prompt.encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        line.send(wire.request("POST", "/v1/completions", body, {"content-type": "application/json", **named}))
        programs.wait_until(lambda: self.known() == before + 1, f"{prompt} is known")
        return line

    def state(self) -> dict[str, int]:
        state = wire.ask(self.admin, "GET", "/state").json()
        return {"in_flight": state["in_flight"], "queued": state["queued"]}

    def known(self) -> int:
        return sum(self.state().values())

    def prompts(self) -> list[str]:
        """In the order in which the engine got them."""
        return [asked.body.decode().partition('"prompt": "')[2].rstrip('"}') for asked in self.engine.asked]

    def answer(self, count: int = 1) -> None:
        self.held.go.release(count)


@contextmanager
def scene(tmp_path: Path, *flags: str) -> Iterator[Scene]:
    admin = tmp_path / "admin"
    held = Held()
    with (
        scripted.engine(held) as engine,
        scripted.gateway(tmp_path, [engine], *BUSY, "--admin-socket", str(admin), *flags) as program,
    ):
        one = Scene(program, f"unix:{admin}", engine, held)
        yield one
        one.answer(1000)
        for line in one.lines:
            line.close()
        programs.wait_until(lambda: one.known() == 0, "nothing is in flight, and nobody waits")


def test_what_has_no_room_waits_and_goes_on_in_order(tmp_path: Path) -> None:
    with scene(tmp_path) as one:
        lines = [one.ask(str(number)) for number in range(4)]
        assert one.state() == {"in_flight": 1, "queued": 3}
        one.answer(4)
        assert [line.answer("POST").status for line in lines] == [200] * 4
        assert one.prompts() == ["0", "1", "2", "3"]
        text = wire.ask(one.admin, "GET", "/metrics").body.decode()
        assert "dp_vllm_queue_requests 0.0" in text and "dp_vllm_queue_seconds_count 3.0" in text


def test_many_long_prompts_at_once_are_all_answered(tmp_path: Path) -> None:
    body = b'{"prompt": "%b"}' % (b"word " * 4_000)
    request = wire.request("POST", "/v1/completions", body, {"content-type": "application/json"})
    admin = f"unix:{tmp_path / 'admin'}"
    with scripted.engine() as first, scripted.engine() as second:
        flags = (
            "--policy",
            "least-load",
            "--replica-ahead-seconds",
            "0.1",
            "--admin-socket",
            admin.removeprefix("unix:"),
        )
        with scripted.gateway(tmp_path, [first, second], *flags) as program, ExitStack() as stack:
            lines = [stack.enter_context(wire.line(program.url)) for _ in range(32)]
            for _ in range(8):
                for line in lines:
                    line.send(request)
                assert [line.answer().status for line in lines] == [200] * len(lines)
            state = wire.ask(admin, "GET", "/state").json()
            assert (state["in_flight"], state["queued"]) == (0, 0)


def test_priorities_go_before_arrival_and_the_header_before_the_body(tmp_path: Path) -> None:
    with scene(tmp_path) as one:
        one.ask("first")
        one.ask("usual")
        one.ask("later", x_dp_vllm_priority="5")
        one.ask('by body", "priority": -7, "x": "')
        one.ask('by header", "priority": 9, "x": "', x_dp_vllm_priority="-9")
        one.answer(5)
        programs.wait_until(lambda: len(one.engine.asked) == 5, "all were sent")
        assert [prompt.partition('"')[0] for prompt in one.prompts()] == [
            *("first", "by header", "by body", "usual", "later")
        ]
        assert all("x-dp-vllm-priority" not in asked.headers for asked in one.engine.asked)


def test_keys_have_fair_shares(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("many-key\nfew-key\n")
    with scene(tmp_path, "--api-key-file", str(keys), "--admin-api-key", "boss") as one:
        for number in range(4):
            one.ask(f"many {number}", authorization="Bearer many-key", x_dp_vllm_priority=str(-number))
        one.ask("batch", authorization="Bearer many-key", x_dp_vllm_priority="10")
        one.ask("few", authorization="Bearer few-key")
        one.ask("outranks", authorization="Bearer boss", x_dp_vllm_priority="-1")
        one.answer(7)
        programs.wait_until(lambda: len(one.engine.asked) == 7, "all were sent")
        prompts = one.prompts()
        assert prompts.pop(1) == "outranks"
        assert prompts.index("few") <= 2, "a priority below 0 counts only within the key's share"
        prompts.remove("few")
        assert prompts == ["many 0", "many 3", "many 2", "many 1", "batch"]


def test_a_full_queue_refuses_the_key_that_fills_it(tmp_path: Path) -> None:
    keys = ("--api-key", "many-key", "--api-key", "few-key")
    with scene(tmp_path, "--max-queued-requests", "2", *keys) as one:
        many = [one.ask(f"many {number}", authorization="Bearer many-key") for number in range(3)]
        few = wire.Line(one.program.url)
        one.lines.append(few)
        headers = {"content-type": "application/json", "authorization": "Bearer few-key"}
        few.send(wire.request("POST", "/v1/completions", b'{"prompt": "few"}', headers))
        refused = many[2].answer("POST")
        assert (refused.status, refused.error["code"]) == (429, "queue_full")
        assert "most of them of this API key" in refused.error["message"]
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        assert one.state() == {"in_flight": 1, "queued": 2}
        one.answer(3)
        assert [line.answer("POST").status for line in (*many[:2], few)] == [200] * 3
        assert "dp_vllm_queue_evictions_total 1.0" in wire.ask(one.admin, "GET", "/metrics").body.decode()


def test_too_many_are_told_when_to_come_again(tmp_path: Path) -> None:
    with scene(tmp_path, "--max-queued-requests", "1") as one:
        one.ask("works")
        one.ask("waits")
        refused = wire.complete(one.program.url)
        assert (refused.status, refused.error["code"]) == (429, "queue_full")
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        assert "1 requests wait already" in refused.error["message"]


def test_nobody_waits_longer_than_the_deadline(tmp_path: Path) -> None:
    with scene(tmp_path, "--queue-seconds", "0.2") as one:
        one.ask("works")
        refused = wire.complete(one.program.url)
        assert (refused.status, refused.error["code"]) == (429, "queue_timeout")
        assert one.state() == {"in_flight": 1, "queued": 0}


def test_who_leaves_while_waiting_is_never_sent_and_holds_up_nobody(tmp_path: Path) -> None:
    with scene(tmp_path) as one:
        one.ask("works")
        leaving = one.ask("leaves")
        staying = one.ask("stays")
        leaving.close()
        programs.wait_until(lambda: one.state()["queued"] == 1, "it is not waited for any more")
        one.answer(2)
        assert staying.answer("POST").status == 200
        assert one.prompts() == ["works", "stays"]
        text = wire.ask(one.admin, "GET", "/metrics").body.decode()
        assert 'dp_vllm_requests_total{replica="",route="/v1/completions",status="499"} 1.0' in text


@pytest.mark.parametrize("value", ["high", "1.5", ""])
def test_a_priority_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    with scripted.engine() as engine, scripted.gateway(tmp_path, [engine]) as program:
        refused = wire.complete(program.url, {"x-dp-vllm-priority": value})
        assert refused.status == 400
        assert f"x-dp-vllm-priority: '{value}' is not a whole number" in refused.error["message"]


def test_room_at_a_new_replica_is_seen_by_those_who_wait(tmp_path: Path) -> None:
    held = Held()
    with scripted.engine(held) as first, scripted.engine(healthy=False) as second:
        admin = tmp_path / "admin"
        flags = (*BUSY, "--admin-socket", str(admin), "--probe-seconds", "0.2")
        with scripted.gateway(tmp_path, [first, second], *flags) as program:
            one = Scene(program, f"unix:{admin}", first, held)
            one.ask("works")
            waiting = one.ask("waits")
            second.healthy = True
            answer = waiting.answer("POST")
            assert (answer.status, answer.replica) == (200, "1")
            held.go.release()
            assert one.lines[0].answer("POST").status == 200
            for line in one.lines:
                line.close()


def test_when_the_last_replica_goes_all_who_wait_are_told(tmp_path: Path) -> None:
    with scene(tmp_path, "--probe-seconds", "0.2") as one:
        one.ask("works")
        waiting = [one.ask("waits"), one.ask("waits too")]
        one.engine.down()
        answers = [line.answer("POST") for line in waiting]
        assert [answer.status for answer in answers] == [503, 503]
        assert all("retry-after" in answer.headers for answer in answers)


def test_when_the_gateway_ends_those_who_wait_are_told(tmp_path: Path) -> None:
    held = Held()
    with scripted.engine(held) as engine:
        admin = tmp_path / "admin"
        flags = (*BUSY, "--admin-socket", str(admin), "--shutdown-timeout", "0.3")
        with scripted.gateway(tmp_path, [engine], *flags) as program:
            one = Scene(program, f"unix:{admin}", engine, held)
            one.ask("works")
            waiting = one.ask("waits")
            program.signal(15)
            answer = waiting.answer("POST")
            assert (answer.status, answer.error["code"]) == (503, "shutting_down")
            assert program.wait() == 0
        held.go.release()
        for line in one.lines:
            line.close()


def test_a_gateway_that_ends_lets_those_who_wait_have_their_turn(tmp_path: Path) -> None:
    held = Held()
    with scripted.engine(held) as engine:
        admin = tmp_path / "admin"
        flags = (*BUSY, "--admin-socket", str(admin), "--shutdown-timeout", "20")
        with scripted.gateway(tmp_path, [engine], *flags) as program:
            one = Scene(program, f"unix:{admin}", engine, held)
            lines = [one.ask(str(number)) for number in range(3)]
            program.signal(15)
            held.go.release(3)
            assert [line.answer("POST").status for line in lines] == [200] * 3
            assert program.wait() == 0
        for line in lines:
            line.close()


def test_who_continues_a_response_waits_for_the_replica_that_made_it_and_a_cancellation_waits_for_nothing(
    tmp_path: Path,
) -> None:
    response = scripted.whole(200, {"id": "resp_1", "object": "response"})

    def made(peer: Peer, asked: Asked) -> None:
        peer.send(response)

    def busy(held: Held, peer: Peer, asked: Asked) -> None:
        peer.send(response) if asked.target.endswith("/cancel") else held(peer, asked)

    helds, admin = (Held(), Held()), tmp_path / "admin"
    json_type = {"content-type": "application/json"}
    with scripted.engine(made) as first, scripted.engine(made) as second:
        engines = (first, second)
        flags = (*BUSY, "--policy", "round-robin", "--admin-socket", str(admin))
        with scripted.gateway(tmp_path, engines, *flags) as program:
            home = wire.ask(program.url, "POST", "/v1/responses", {"input": "x"}).replica
            assert home is not None
            for engine, held in zip(engines, helds, strict=True):
                engine.script = partial(busy, held)
            one = Scene(program, f"unix:{admin}", engines[int(home)], helds[int(home)])
            other = 1 - int(home)
            lines = [one.ask("a"), one.ask("b"), one.ask("waits")]
            body = b'{"input": "y", "previous_response_id": "resp_1"}'
            lines.append(wire.Line(program.url))
            lines[3].send(wire.request("POST", "/v1/responses", body, json_type))
            programs.wait_until(lambda: one.state() == {"in_flight": 2, "queued": 2}, "both wait")
            cancelled = wire.ask(program.url, "POST", "/v1/responses/resp_1/cancel")
            assert (cancelled.status, cancelled.replica) == (200, home)
            helds[other].go.release(2)
            assert lines[2].answer("POST").replica == str(other)
            programs.wait_until(lambda: one.state() == {"in_flight": 1, "queued": 1}, "the other replica is free")
            helds[int(home)].go.release(2)
            assert (answer := lines[3].answer("POST")).replica == home
            assert answer.headers["x-dp-vllm-reason"] == "home"
            for line in lines:
                line.close()
            programs.wait_until(lambda: one.known() == 0, "nothing is in flight")
