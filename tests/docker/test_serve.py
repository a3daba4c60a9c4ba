"""`docker run IMAGE MODEL -dp 4`: the whole of local mode as the first process of a container."""

from concurrent.futures import ThreadPoolExecutor

import openai
import programs
import pytest
from docker.containers import MODEL, Container, answered_by, running, streamed_chat
from docker.engine import Engine
from docker.images import tag

pytestmark = pytest.mark.docker

ZOMBIES = """
from pathlib import Path
states = [path.read_text().rpartition(")")[2].split()[0] for path in Path("/proc").glob("[0-9]*/stat")]
print(states.count("Z"))
"""


def test_a_chat_is_streamed(serve: Container) -> None:
    with serve.client() as client:
        assert len(streamed_chat(client)) > 1


def test_every_replica_answers(serve: Container) -> None:
    with serve.client() as client:
        assert len(answered_by(client, requests=16)) == 4


def test_docker_sees_that_it_is_healthy(serve: Container) -> None:
    serve.await_healthy()


def test_the_model_cache_is_where_vllms_image_has_it(serve: Container) -> None:
    assert serve.python("from pathlib import Path; print(Path.home())") == "/root"


def test_the_command_is_there_for_docker_exec(serve: Container) -> None:
    assert serve.docker.run("exec", serve.id, "dp-vllm", "--version").startswith("dp-vllm ")


def test_orphans_are_reaped(serve: Container) -> None:
    serve.docker.run("exec", serve.id, "sh", "-c", "(sleep 0.1 &)")
    programs.wait_until(lambda: "sleep" not in str(serve.processes()), "the orphan ended")
    programs.wait_until(lambda: serve.python(ZOMBIES) == "0", "no process is left to be reaped")


def test_docker_stop_ends_it_well(docker: Engine) -> None:
    with running(docker, tag("dp-vllm"), MODEL, "--engine", "sim", "-dp", "2") as container:
        container.await_answer()
        assert container.stop() == 0, container.logs()


def test_docker_stop_ends_open_streams_too(docker: Engine) -> None:
    with running(docker, tag("dp-vllm"), MODEL, "--engine", "sim", "-dp", "2") as container:
        container.await_answer()
        with container.client() as client, ThreadPoolExecutor() as pool:
            stream = client.completions.create(model=MODEL, prompt="Hello", max_tokens=30_000, stream=True)
            next(iter(stream))
            rest = pool.submit(list, stream)
            assert container.stop() == 0, container.logs()
            assert isinstance(rest.exception(timeout=5), openai.APIError)  # told in the stream, not cut off


def test_docker_kill_leaves_nothing(docker: Engine) -> None:
    with running(docker, tag("dp-vllm"), MODEL, "--engine", "sim", "-dp", "4") as container:
        container.await_answer()
        assert sum("dp_vllm.sim" in line for line in container.processes()) >= 4
        docker.run("kill", "--signal=KILL", container.id)
        programs.wait_until(lambda: not container.processes(), "all its processes and its shim are gone", 10)
        assert container.state("ExitCode") == "137"


def test_a_missing_model_is_one_sentence(docker: Engine) -> None:
    done = docker.ended("run", "--rm", tag("dp-vllm"), "-dp", "4")
    assert done.returncode == 2
    assert "MODEL" in done.stderr
    assert "Traceback" not in done.stderr
