"""What the download Job leaves on the volume is all that the real engine needs, by its own version of the library."""

import shutil
from pathlib import Path

import downloads
import programs
import pytest
import real_engine
from ports import free_port
from wire import ask

pytestmark = pytest.mark.vllm


def test_an_engine_without_network_finds_what_was_downloaded(tmp_path: Path) -> None:
    with downloads.hub(tmp_path) as hub:
        shutil.copytree(real_engine.model(), hub.root / "org" / "tiny")
        hub.add("org/tiny", pytorch_model__bin=1000, original___consolidated__00__pth=1000)
        job = downloads.Job(hub.url, tmp_path / "home", tmp_path / "message", str(real_engine.python()))
        done = job.run("org/tiny")
        assert done.returncode == 0, done.stdout + done.stderr
    assert not list(job.home.rglob("*.bin"))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = [str(real_engine.vllm()), "serve", "org/tiny", "--host", "127.0.0.1", "--port", str(port)]
    with (
        real_engine.environment() as variables,
        programs.running(
            [*argv, *real_engine.FLAGS],
            tmp_path / "vllm.log",
            env={**variables, "HF_HOME": str(job.home), "HF_HUB_OFFLINE": "1"},
        ) as program,
    ):
        real_engine.await_ready(program, url)
        with real_engine.ended_in_order(program):
            answer = ask(url, "POST", "/v1/completions", {"prompt": "a", "max_tokens": 2})
            assert answer.status == 200
