"""The real engine starts again without the hub, out of what it downloaded, and is called what it was called before."""

import re
import shutil
import tempfile
from pathlib import Path

import downloads
import fake_hub
import programs
import pytest
import real_engine
from deployments import DP_VLLM, Served
from ports import free_port
from wire import ask

from dp_vllm.local.run_directory import RunDirectory

pytestmark = pytest.mark.vllm

MODEL = "org/tiny"


def test_a_replica_that_starts_late_does_without_the_hub(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = [DP_VLLM, "serve", MODEL, *real_engine.SMALL, "--engine", "vllm", "--log-dir", str(tmp_path / "logs")]
    with (
        downloads.hub(tmp_path) as hub,
        tempfile.TemporaryDirectory(prefix="dpv-") as runs,
        real_engine.environment() as variables,
    ):
        shutil.copytree(real_engine.model(), hub.root / MODEL)
        del variables["HF_HUB_OFFLINE"]
        at_hub = {**variables, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "XDG_RUNTIME_DIR": runs}
        argv += ["--host", "127.0.0.1", "--port", str(port)]
        with programs.running(argv, tmp_path / "serve.log", url=url, env=at_hub) as program:
            served = Served(program, RunDirectory(Path(runs) / "dp-vllm" / str(port), tmp_path / "logs"), port)
            served.await_ready(1)
            before = seen(url)
            hub.fault("/", status=503)
            asked = len(hub.requests())
            served.engine("0").kill()
            served.await_ready(1, times=2)

            assert seen(url) == before
            assert f"{MODEL} that this run serves ({fake_hub.COMMIT[:12]})" in program.output()
            assert len(hub.requests()) == asked + 1, "our own question"
            with real_engine.ended_in_order(program):
                answer = ask(url, "POST", "/v1/completions", {"prompt": "a", "max_tokens": 2})
                assert answer.status == 200


def seen(url: str) -> tuple[list[str], set[str]]:
    """What clients and metrics call the model."""
    metrics = ask(url, "GET", "/metrics").body.decode()
    names = [model["id"] for model in ask(url, "GET", "/v1/models").json()["data"]]
    return names, set(re.findall(r'^vllm:num_requests_running\{.*model_name="([^"]*)"', metrics, re.MULTILINE))
