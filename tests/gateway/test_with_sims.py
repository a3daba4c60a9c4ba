"""Changes of the whole deployment and WebSockets, with simulated engines that are killed and started again."""

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import programs
import pytest
import wire
from programs import Program

from dp_vllm import endpoints
from dp_vllm.endpoints import Endpoint, EndpointSet

FLAGS = ("--enable-lora", "--sim-load-seconds", "0", "--sim-decode-step-seconds", "0.001")
ADAPTER = {"lora_name": "sql", "lora_path": "/adapters/sql"}


class Deployment:
    """Two simulated engines, the endpoints file that names them, and a gateway that reads it."""

    def __init__(self, directory: Path, stack: ExitStack, *models: str, most: int = 1024) -> None:
        """Each engine serves the model of its place, if there are any."""
        self._models = models
        self._directory = directory
        self._stack = stack
        self._file = directory / "endpoints.json"
        self._generation = 0
        self.engines = {name: self._start(name) for name in "01"}
        self._lives = dict.fromkeys(self.engines, 0)
        self._write()
        admin = directory / "admin.sock"
        flags = ["--endpoints-file", str(self._file), "--admin-socket", str(admin), "--probe-seconds", "0.5"]
        flags += ["--max-replica-sequences", str(most)]
        self.url = stack.enter_context(programs.gateway(directory, *flags)).url
        self._admin = f"unix:{admin}"

    def _start(self, name: str) -> Program:
        named = ("--served-model-name", self._models[int(name)]) if self._models else ()
        return self._stack.enter_context(programs.sim(self._directory, *FLAGS, *named))

    def _write(self) -> None:
        self._generation += 1
        listed = (
            Endpoint(
                *(name, engine.url.removeprefix("http://"), str(self._lives[name])),
                models=(self._models[int(name)],) if self._models else (),
            )
            for name, engine in self.engines.items()
        )
        endpoints.write(self._file, EndpointSet(self._generation, tuple(listed)))

    def restart(self, name: str) -> None:
        """Kill an engine and put another one into its place."""
        self.engines[name].signal(signal.SIGKILL)
        self.engines[name].wait()
        self.engines[name] = self._start(name)
        self._lives[name] += 1
        self._write()

    def available(self, name: str) -> bool:
        """Whether the present engine may be picked."""
        state = wire.ask(self._admin, "GET", "/state").json()
        return bool(state["generation"] == self._generation and state["replicas"][name]["available"])


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    with ExitStack() as stack:
        yield Deployment(tmp_path, stack)


def test_an_adapter_is_there_again_before_the_restarted_engine_serves(deployment: Deployment) -> None:
    url = deployment.url
    assert wire.ask(url, "POST", "/v1/load_lora_adapter", ADAPTER).status == 200
    answer = wire.ask(url, "POST", "/v1/load_lora_adapter", ADAPTER)
    assert (answer.status, {result["status"] for result in answer.json()["results"].values()}) == (400, {400})
    deployment.restart("1")

    def use() -> str | None:
        answer = wire.ask(url, "POST", "/v1/completions", {"model": "sql", "prompt": "x", "max_tokens": 1})
        assert answer.status == 200, answer
        return answer.replica

    while not deployment.available("1"):
        use()
    assert {use() for _ in range(4)} == {"0", "1"}
    for engine in deployment.engines.values():
        models = [model["id"] for model in wire.ask(engine.url, "GET", "/v1/models").json()["data"]]
        assert models == ["demo/model", "sql"]
    assert wire.ask(url, "POST", "/v1/unload_lora_adapter", {"lora_name": "sql"}).status == 200
    assert [model["id"] for model in wire.ask(url, "GET", "/v1/models").json()["data"]] == ["demo/model"]


def test_of_several_models_one_gets_an_adapter_and_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
    with ExitStack() as stack:
        deployment = Deployment(tmp_path, stack, "a", "b", most=1)
        url = deployment.url

        def use(model: str) -> wire.Answer:
            return wire.ask(url, "POST", "/v1/completions", {"model": model, "prompt": "x", "max_tokens": 1})

        programs.wait_until(lambda: deployment.available("0") and deployment.available("1"), "both serve")
        assert use("sql").status == 404
        assert wire.ask(url, "POST", "/v1/load_lora_adapter?model=c", ADAPTER).status == 404
        answer = wire.ask(url, "POST", "/v1/load_lora_adapter?model=b", ADAPTER)
        assert (answer.status, list(answer.json()["results"])) == (200, ["1"])
        with ThreadPoolExecutor() as clients:  # all but one wait in the gateway
            assert {answer.replica for answer in clients.map(use, ["sql"] * 4)} == {"1"}
        assert (use("a").replica, use("b").replica) == ("0", "1")

        for name in "01":
            deployment.restart(name)
        programs.wait_until(lambda: deployment.available("0") and deployment.available("1"), "both are back")
        assert use("sql").replica == "1"
        listed = [wire.ask(engine.url, "GET", "/v1/models").json()["data"] for engine in deployment.engines.values()]
        assert [[model["id"] for model in models] for models in listed] == [["a"], ["b", "sql"]]
        assert wire.ask(url, "POST", "/v1/unload_lora_adapter", {"lora_name": "sql"}).status == 404, "a never had it"
        assert use("sql").status == 404


def test_a_deployment_that_sleeps_goes_on_sleeping_when_an_engine_restarts(deployment: Deployment) -> None:
    url = deployment.url

    def asleep() -> list[bool]:
        results = wire.ask(url, "GET", "/is_sleeping").json()["results"]
        return [result["body"]["is_sleeping"] for result in results.values()]

    assert wire.ask(url, "POST", "/sleep?level=1").status == 200
    deployment.restart("0")
    programs.wait_until(lambda: deployment.available("0"), "replica 0 is back")
    assert asleep() == [True, True]
    assert wire.ask(url, "POST", "/wake_up").status == 200
    assert asleep() == [False, False]


async def test_a_realtime_socket_speaks_with_one_engine(deployment: Deployment) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(deployment.url + "/v1/realtime", protocols=("realtime",)) as socket,
    ):
        assert socket.protocol == "realtime"
        assert json.loads(await socket.receive_str())["type"] == "session.created"
        await socket.send_str("hello")
        assert await socket.receive_str() == "hello"
        await socket.send_bytes(b"\x00\xff")
        assert await socket.receive_bytes() == b"\x00\xff"
        await socket.close(code=4001, message=b"done")
        assert socket.close_code == 4001
