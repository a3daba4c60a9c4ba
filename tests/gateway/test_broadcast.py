"""Routes that concern every replica."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import programs
import pytest
import scripted
import wire
from scripted import Asked, Engine, Peer
from wire import ask

from dp_vllm.engine.routes import route_of
from dp_vllm_gateway.broadcast import Broadcasts, Result, in_force
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.lasting import MOST_CHANGE_BYTES, MOST_CHANGES, Change
from dp_vllm_gateway.outgoing import Outgoing
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.replies import Refusal

LOAD = "/v1/load_lora_adapter"
UNLOAD = "/v1/unload_lora_adapter"


class Adapters:
    """An engine's adapters: a script that answers as vLLM does, and loses them when it is started again."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.log: list[str] = []
        """Every request's target, in order, over all starts."""
        self.refuses: set[str] = set()

    def __call__(self, peer: Peer, asked: Asked) -> None:
        self.log.append(asked.target)
        name = json.loads(asked.body).get("lora_name", "") if asked.body else ""
        status = self._change(asked.target, name)
        peer.send(scripted.whole(status, {"did": asked.target, "loaded": self.loaded}))

    def _change(self, target: str, name: str) -> int:
        if name in self.refuses or (target == LOAD and name in self.loaded):
            return 400
        if target == UNLOAD and name not in self.loaded:
            return 404
        if target == LOAD:
            self.loaded.append(name)
        elif name:
            self.loaded.remove(name)
        return 200

    def die(self, engine: Engine) -> None:
        """The engine dies, and has nothing when it is up again."""
        engine.down()
        self.loaded.clear()


@contextmanager
def deployment(directory: Path, *flags: str) -> Iterator[tuple[programs.Program, list[tuple[Engine, Adapters]]]]:
    """A gateway before two such engines, looking often."""
    with ExitStack() as stack:
        adapters = [Adapters(), Adapters()]
        engines = [stack.enter_context(scripted.engine(script)) for script in adapters]
        replicas = [word for engine in engines for word in ("--replica", engine.url)]
        admin = directory / "admin.sock"
        flags = (*replicas, "--probe-seconds", "0.2", "--admin-socket", str(admin), *flags)
        gateway = stack.enter_context(programs.gateway(directory, *flags))
        yield gateway, list(zip(engines, adapters, strict=True))
        programs.wait_until(lambda: not wire.in_flight(f"unix:{admin}"), "nothing is in flight")


def health(url: str) -> str:
    """Which replicas the gateway takes for healthy, such as "01"."""
    results = ask(url, "GET", "/is_sleeping").json()["results"]
    return "".join(name for name, result in results.items() if result["status"] != 503)


def test_a_change_reaches_every_replica_and_each_result_is_told(tmp_path: Path) -> None:
    with deployment(tmp_path) as (gateway, engines):
        answer = ask(gateway.url, "POST", LOAD, {"lora_name": "sql", "lora_path": "/sql"}, {"accept-encoding": "gzip"})
        assert answer.status == 200
        result = {"status": 200, "body": {"did": LOAD, "loaded": ["sql"]}}
        assert answer.json() == {"results": {"0": result, "1": result}}
        assert answer.headers["content-type"] == "application/json"
        assert [adapters.loaded for _, adapters in engines] == [["sql"], ["sql"]]
        for engine, _ in engines:
            assert json.loads(engine.asked[0].body) == {"lora_name": "sql", "lora_path": "/sql"}
            assert engine.asked[0].headers["content-type"] == "application/json"
            assert "accept-encoding" not in engine.asked[0].headers


def test_one_replica_that_refuses_is_named_and_decides_the_status(tmp_path: Path) -> None:
    with deployment(tmp_path) as (gateway, engines):
        engines[1][1].refuses.add("sql")
        answer = ask(gateway.url, "POST", LOAD, {"lora_name": "sql"})
        assert answer.status == 400
        assert answer.json()["results"]["0"]["status"] == 200
        assert answer.json()["results"]["1"]["status"] == 400
        assert answer.error["message"] == "replica 1 answered 400; done by 1 of 2"
        assert answer.error["type"] == "invalid_request_error"


def test_a_connection_that_fails_counts_as_502_and_an_unhealthy_replica_as_503(tmp_path: Path) -> None:
    with deployment(tmp_path) as (gateway, engines):
        engines[0][0].script = scripted.then_closing(b"HTTP/1.1 200 OK\r\ncontent-len")
        answer = ask(gateway.url, "POST", "/reset_prefix_cache")
        assert answer.status == 502
        assert answer.json()["results"]["0"]["body"].startswith("the replica could not be asked: ")
        assert answer.json()["results"]["1"]["status"] == 200
        engines[0][0].down()
        programs.wait_until(lambda: health(gateway.url) == "1", "the death is seen")
        assert ask(gateway.url, "POST", LOAD, {"lora_name": "sql"}).json()["results"]["0"] == {
            "status": 503,
            "body": "the replica is not healthy, so it was not asked; it will be when it comes back",
        }


def test_what_is_no_json_is_told_as_text(tmp_path: Path) -> None:
    with deployment(tmp_path) as (gateway, engines):
        engines[0][0].script = scripted.saying(scripted.head(500, content_length=4), b"\xff no")
        answer = ask(gateway.url, "POST", "/pause")
        assert answer.status == 500
        assert answer.json()["results"]["0"] == {"status": 500, "body": "\N{REPLACEMENT CHARACTER} no"}


def test_without_any_healthy_replica_a_change_is_refused(tmp_path: Path) -> None:
    with deployment(tmp_path) as (gateway, engines):
        for engine, _ in engines:
            engine.down()
        programs.wait_until(lambda: not programs.answers(gateway.url + "/health"), "the losses are seen")
        answer = ask(gateway.url, "POST", LOAD, {"lora_name": "sql"})
        assert (answer.status, answer.error["code"]) == (503, "no_ready_replica")
        assert "retry-after" in answer.headers


def test_a_replica_that_restarts_is_given_its_adapters_before_any_request(tmp_path: Path) -> None:
    with deployment(tmp_path) as (gateway, engines):
        for name in ("sql", "law", "old"):
            assert ask(gateway.url, "POST", LOAD, {"lora_name": name}).status == 200
        assert ask(gateway.url, "POST", UNLOAD, {"lora_name": "old"}).status == 200
        assert ask(gateway.url, "POST", "/reset_prefix_cache").status == 200
        engine, adapters = engines[1]
        adapters.die(engine)
        programs.wait_until(lambda: health(gateway.url) == "0", "the death is seen")
        seen = len(adapters.log)
        engine.up()
        programs.wait_until(lambda: wire.complete(gateway.url).replica == "1", "replica 1 serves again")
        assert adapters.loaded == ["sql", "law"]
        assert adapters.log[seen : seen + 2] == [LOAD, LOAD]
        assert "/v1/completions" in adapters.log[seen + 2 :]
        assert "replica 1 was given /v1/load_lora_adapter again" in gateway.output()


def test_an_adapter_that_is_refused_the_second_time_does_not_keep_the_replica_out(tmp_path: Path) -> None:
    with deployment(tmp_path) as (gateway, engines):
        assert ask(gateway.url, "POST", LOAD, {"lora_name": "sql"}).status == 200
        assert ask(gateway.url, "POST", LOAD, {"lora_name": "law"}).status == 200
        engine, adapters = engines[0]
        adapters.refuses.add("sql")
        adapters.die(engine)
        programs.wait_until(lambda: health(gateway.url) == "1", "the death is seen")
        engine.up()
        programs.wait_until(lambda: health(gateway.url) == "01", "replica 0 is back")
        assert adapters.loaded == ["law"]
        assert "ERROR replica 0 refused /v1/load_lora_adapter again: 400" in gateway.output()


def test_a_replica_that_cannot_be_given_its_adapters_is_not_served_from(tmp_path: Path) -> None:
    with deployment(tmp_path) as (gateway, engines):
        assert ask(gateway.url, "POST", LOAD, {"lora_name": "sql"}).status == 200
        engine, adapters = engines[0]
        adapters.die(engine)
        programs.wait_until(lambda: health(gateway.url) == "1", "the death is seen")
        engine.script = scripted.then_closing()
        seen = len(engine.asked)
        engine.up()
        programs.wait_until(lambda: len(engine.asked) > seen + 1, "it is tried more than once")
        assert {asked.target for asked in engine.asked[seen:]} == {LOAD}
        assert health(gateway.url) == "1"
        engine.script = adapters
        programs.wait_until(lambda: health(gateway.url) == "01", "replica 0 is back")
        assert adapters.loaded == ["sql"]


def test_a_replica_that_fails_at_a_change_each_time_serves_without_it(tmp_path: Path) -> None:
    with deployment(tmp_path) as (gateway, engines):
        assert ask(gateway.url, "POST", LOAD, {"lora_name": "sql"}).status == 200
        engine, adapters = engines[0]
        adapters.die(engine)
        programs.wait_until(lambda: health(gateway.url) == "1", "the death is seen")
        engine.script = scripted.then_closing()
        seen = len(engine.asked)
        engine.up()
        programs.wait_until(lambda: health(gateway.url) == "01", "replica 0 is back")
        assert [asked.target for asked in engine.asked[seen:]].count(LOAD) == 10
        assert "replica 0 failed /v1/load_lora_adapter 10 times and is not given it any more" in gateway.output()


def test_a_change_of_which_the_client_left_is_finished_and_kept_only_if_a_replica_made_it(tmp_path: Path) -> None:
    with deployment(tmp_path) as (gateway, engines):
        (engine, adapters), (other, _) = engines
        go = threading.Event()

        def slow(peer: Peer, asked: Asked) -> None:
            assert go.wait(programs.START_SECONDS)
            adapters(peer, asked)

        engine.script = other.script = slow
        adapters.refuses.add("refused")
        for name in ("refused", "sql"):
            go.clear()
            engine.asked.clear()
            with wire.line(gateway.url) as line:
                line.send(wire.request("POST", LOAD, b'{"lora_name": "%b"}' % name.encode()))
                programs.wait_until(lambda: bool(engine.asked), "it is asked")
            assert programs.answers(gateway.url + "/health"), "the gateway has seen that the client left"
            go.set()
        programs.wait_until(lambda: adapters.loaded == ["sql"], "the engine made the change")
        engine.script = adapters
        adapters.die(engine)
        programs.wait_until(lambda: health(gateway.url) == "1", "the death is seen")
        seen = len(adapters.log)
        engine.up()
        programs.wait_until(lambda: health(gateway.url) == "01", "replica 0 is back")
        assert (adapters.loaded, adapters.log[seen:].count(LOAD)) == (["sql"], 1)


@pytest.mark.parametrize(
    ("path", "statuses", "kept"),
    [
        (LOAD, [200, 400], True),
        (LOAD, [502, 502], False),
        (LOAD, [404, 404], False),
        (UNLOAD, [200, 500], True),
        (UNLOAD, [404, 404], True),
        (UNLOAD, [404, 503], True),
        (UNLOAD, [503, 503], False),
        (UNLOAD, [404, 502], False),
    ],
)
def test_a_change_is_kept_if_any_replica_made_it(path: str, statuses: list[int], kept: bool) -> None:
    results = {str(number): Result(status, None) for number, status in enumerate(statuses)}
    assert in_force(route_of("POST", path), results) == kept


async def test_a_change_that_cannot_be_kept_is_refused_before_it_is_sent() -> None:
    pool = Pool(connect_seconds=1, clock=asyncio.get_running_loop().time)
    broadcasts = Broadcasts(pool, seconds=1, on_forget=lambda: None)

    async def refusal(path: str, **body: str) -> str | None:
        out = Outgoing("POST", path, route_of("POST", path), b"", json.dumps(body).encode(), Facts(), 0, 0, b"")
        with pytest.raises(Refusal) as raised:
            await broadcasts.send(out)
        return raised.value.code

    for number in range(MOST_CHANGES):
        assert await refusal(LOAD, lora_name="new") == "no_ready_replica"
        broadcasts.note(Change("POST", LOAD, b"", json.dumps({"lora_name": str(number)}).encode()))
    assert await refusal(LOAD, lora_name="new") == "too_many_changes"
    assert await refusal(LOAD, lora_name="0") == "no_ready_replica"
    assert await refusal(UNLOAD, lora_name="0") == "no_ready_replica"
    for path in (LOAD, UNLOAD):
        assert await refusal(path, lora_name="large", x="x" * MOST_CHANGE_BYTES) == "change_too_large"
