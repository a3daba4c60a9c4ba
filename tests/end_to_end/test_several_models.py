"""`dp-vllm serve -f` with models of different sizes: real processes, one endpoint, the OpenAI client."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from deployments import Served, kill
from openai.types.chat import ChatCompletionMessageParam
from ports import free_port
from programs import Program, python, running, wait_until

from dp_vllm.errors import UserError
from dp_vllm.local import runs
from dp_vllm.local.operate import look
from dp_vllm.local.run_directory import RunDirectory
from dp_vllm.local.standing import ScaleOrder

TWO = """
apiVersion: dpvllm.io/v1alpha1
kind: DPModel
metadata: {name: chat}
spec:
  model: org/chat
  replicas: 2
  engine: {accelerator: none}
---
apiVersion: dpvllm.io/v1alpha1
kind: DPModel
metadata: {name: vectors}
spec:
  model: org/vectors
  servedModelName: vectors
  engine:
    accelerator: none
    args: [--runner, pooling, --sim-load-seconds, "2"]
"""
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


@contextlib.contextmanager
def serving(base: Path) -> Iterator[Served]:
    (base / "two.yaml").write_text(TWO)
    port = free_port()
    argv = python("-m", "dp_vllm", "serve", "-f", str(base / "two.yaml"), "--engine", "sim", "--name", "two")
    argv += ["--host", "127.0.0.1", "--port", str(port), "--log-dir", str(base / "logs")]
    directory = RunDirectory(base / "dp-vllm" / "two", base / "logs")
    with running(argv, base / "output", env={"XDG_RUNTIME_DIR": str(base)}) as program:
        yield Served(program, directory, port)


def available(served: Served, *names: str) -> bool:
    known = served.state().get("replicas", {})
    return all(known.get(name, {}).get("available") for name in names)


def said(program: Program, text: str) -> bool:
    return text in program.output()


def refused(client: openai.OpenAI) -> str:
    """What the endpoint says to a request for the second model; nothing if it answers."""
    try:
        client.embeddings.create(model="vectors", input="one")
    except openai.InternalServerError as error:
        return str(error)
    return ""


def test_each_request_goes_to_its_model_and_the_death_of_one_is_not_the_other_s(short_path: Path) -> None:
    with (
        serving(short_path) as served,
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client,
    ):
        wait_until(lambda: available(served, "chat-0", "chat-1", "vectors-0"), served.program.output)
        replicas = set()
        for number in range(8):
            answer = client.chat.completions.with_raw_response.create(
                model="org/chat", messages=[{"role": "user", "content": f"question {number}"}], max_tokens=2
            )
            replicas.add(answer.headers["x-dp-vllm-replica"])
        assert replicas == {"chat-0", "chat-1"}
        assert client.embeddings.create(model="vectors", input="one").data[0].embedding
        assert sorted(model.id for model in client.models.list()) == ["org/chat", "vectors"]
        with pytest.raises(openai.NotFoundError, match=r"`x` does not exist. Served are: org/chat, vectors"):
            client.chat.completions.create(model="x", messages=HELLO)
        assert said(served.program, "replica vectors-0 | ")
        assert (served.directory.logs / "replica-chat-1.log").stat().st_size

        kill(served.pids()["vectors-0"])
        wait_until(lambda: not available(served, "vectors-0"), "the death is seen")
        why = r"no replica of vectors is available \(0 of 1\); .*vectors"  # the supervisor says it, a little later
        wait_until(lambda: re.search(why, refused(client)) is not None, "the death is told")
        assert client.chat.completions.create(model="org/chat", messages=HELLO, max_tokens=2).choices

        wait_until(lambda: available(served, "vectors-0"), served.program.output)
        run = runs.the_one("two", {"XDG_RUNTIME_DIR": str(short_path)})
        with pytest.raises(UserError, match="several models are served; say with --model which of them is meant: org/"):
            look.order(run, "/scale", ScaleOrder(1, 0))
        look.order(run, "/scale", ScaleOrder(1, 0, "org/chat"))
        wait_until(lambda: list(served.state().get("replicas", ())) == ["chat-0", "vectors-0"], "one leaves")
        assert client.embeddings.create(model="vectors", input="one").data
