"""The first and the last seconds of a run, as a client and as its user see them."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path

import aiohttp
import pytest
from deployments import MODEL, serve
from programs import START_SECONDS, wait_until

from dp_vllm.engine import hub


def chat(url: str, **more: object) -> urllib.request.Request:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], **more}
    return urllib.request.Request(
        url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )


def refusal(url: str) -> tuple[int, str, str]:
    """Status, Retry-After and message of the answer to a chat that is refused."""
    try:
        with urllib.request.urlopen(chat(url), timeout=20):
            raise AssertionError("it was not refused")
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Retry-After"], json.loads(error.read())["error"]["message"]


def test_until_a_replica_is_ready_clients_are_told_how_far_the_start_is() -> None:
    with serve("--sim-load-seconds", "600", replicas=1, ready=False) as served:
        wait_until(lambda: served.state() != {}, "the gateway runs")

        def says_so() -> bool:
            status, retry_after, message = refusal(served.url)
            assert status == 503 and int(retry_after) >= 1
            return "replica 0 is starting (loading weights" in message

        wait_until(says_so, "clients are told of the progress")
        served.program.signal(signal.SIGTERM)
        assert served.program.wait() == 0


def test_the_endpoint_serves_while_another_replica_still_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with (
        contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as systemd,
        serve("--sim-load-seconds", "2", replicas=2, ready=False) as served,
    ):
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(START_SECONDS)
        wait_until(lambda: "1" in served.pids(), "both engines were started")
        os.kill(served.pids()["1"], signal.SIGSTOP)
        wait_until(lambda: "ready: 1 of 2 (replica 0 after" in served.program.output(), "the other one is ready")
        with urllib.request.urlopen(chat(served.url, max_tokens=2), timeout=20) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] == 2
        assert not served.serves(1)
        while "READY=1" not in systemd.recv(4096).decode().splitlines():
            pass  # how far the start was


def test_a_replica_that_waits_for_the_one_ahead_starts_when_the_model_is_compiled(tmp_path: Path) -> None:
    flags = ("--staged-start", "--sim-load-seconds", "2", "--sim-host", str(tmp_path))
    with serve(*flags, replicas=2, ready=False) as served:
        wait_until(lambda: served.state() != {}, "the gateway runs")
        request = chat(served.url, stream=True, max_tokens=2)
        request.add_header("x-dp-vllm-wait", "60")
        with urllib.request.urlopen(request, timeout=60) as answer:
            told = answer.read().decode()
        wait_until(lambda: served.serves(0, 1), "both are used")
        before, released, after = served.program.output().partition(
            "replica 0 has compiled the model: the others start"
        )
    assert "replica 1 is starting (waiting for replica 0, which compiles the model for all)" in told
    assert len(set(re.findall(r"replica 0 is starting \(loading weights, (\d+) %\)", told))) > 1
    assert told.endswith("data: [DONE]\n\n")
    assert "dp-vllm   | replica 0: loading weights, " in before
    assert "replica 0 goes ahead" in before and "replica 1 | " not in before
    assert released and "replica 1 | INFO" in after


def test_a_download_of_which_the_engine_says_nothing_is_seen_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = hub.folder(MODEL, tmp_path)
    for path, content in {
        "blobs/abc.incomplete": "x" * 300_000,
        "snapshots/def/model.safetensors.index.json": json.dumps({"metadata": {"total_size": 1_000_000}}),
    }.items():
        (kept / path).parent.mkdir(parents=True)
        (kept / path).write_text(content)
    engine = tmp_path / "vllm"
    engine.write_text("#!/bin/sh\necho Starting to load model\nexec sleep 600\n")
    engine.chmod(0o755)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("VLLM_TARGET_DEVICE", "cpu")
    with serve(engine=str(engine), replicas=1, ready=False) as served:
        wait_until(lambda: "replica 0: downloading the model, 30 %" in served.program.output(), served.program.output)
        assert "replica 0 is starting (downloading the model, 30 %)" in refusal(served.url)[2]


async def test_sigterm_lets_short_streams_end_and_tells_long_ones() -> None:
    flags = ("--shutdown-timeout", "2", "--sim-decode-step-seconds", "0.02")
    with serve(*flags, replicas=2) as served:
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
            short = tasks.create_task(streamed(session, served.url, tokens=40))
            long = tasks.create_task(streamed(session, served.url, tokens=2000))
            await asyncio.to_thread(wait_until, lambda: served.in_flight() == 2, "both are in flight")
            served.program.signal(signal.SIGTERM)
        assert "dp-vllm   | stopping" in served.program.output()
        assert short.result()[-1] == "[DONE]"
        assert "error" in json.loads(long.result()[-1])
        assert await asyncio.to_thread(served.program.wait) == 0


async def streamed(session: aiohttp.ClientSession, url: str, tokens: int) -> list[str]:
    """The data of all events."""
    request = chat(url, stream=True, max_tokens=tokens)
    headers = {"Content-Type": "application/json"}
    async with session.post(request.full_url, data=request.data, headers=headers) as answer:
        lines = (await answer.text()).splitlines()
    return [line.removeprefix("data: ") for line in lines if line]


def test_a_taken_port_is_refused_by_name_and_nothing_is_started() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serve("--port", str(port), replicas=1, ready=False) as served:
            assert served.program.wait() == 1
            assert f"dp-vllm: --port: {port} is taken by process" in served.program.output()
