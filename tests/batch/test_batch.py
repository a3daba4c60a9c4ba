"""`dp-vllm batch` before a simulated engine: what is answered stays answered, whatever is killed."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import programs
import psutil
import pytest
from programs import Program, wait_until
from wire import ask

from dp_vllm.batch import answers, command
from dp_vllm.errors import DpVllmError

Batch = Callable[..., int]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    flags = ("--api-key", "k", "--sim-decode-step-seconds", "0.002")
    with programs.sim(tmp_path_factory.mktemp("engine"), *flags) as program:
        yield program


@pytest.fixture
def engine(shared: Program) -> Iterator[Program]:
    """An engine without faults."""
    yield shared
    assert ask(shared.url, "DELETE", "/sim/fault").json() == {"faults": []}


def fault(program: Program, kind: str, **fields: Any) -> None:
    body = {"kind": kind, "path": "/v1/chat", **fields}
    assert ask(program.url, "POST", "/sim/fault", body).status == 200


def write(path: Path, count: int, tokens: int = 2, **more: Any) -> Path:
    lines = [
        {
            "custom_id": f"r{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": f"{number}"}], "max_tokens": tokens},
        }
        | more
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The answers by id, each of which is there once."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["custom_id"] for line in lines}) == len(lines)
    return {line["custom_id"]: line for line in lines}


@pytest.fixture
def batch(shared: Program, tmp_path: Path) -> Batch:
    """Run one over in.jsonl and out.jsonl."""

    def run(*flags: str) -> int:
        words = [str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), "--base-url", f"{shared.url}/v1", *flags]
        return int(command.main(["--api-key", "k", *words], standalone_mode=False) or 0)

    return run


def test_everything_is_answered_in_openais_words(batch: Batch, engine: Program, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", 30)

    assert batch("--concurrency", "8") == 0

    found = read(tmp_path / "out.jsonl")
    assert found.keys() == {f"r{number}" for number in range(30)}
    one = found["r7"]
    assert one.keys() == {"id", "custom_id", "response", "error"} and one["error"] is None
    assert one["id"].startswith("batch_req_") and one["response"].keys() == {"status_code", "request_id", "body"}
    assert one["response"]["status_code"] == 200 and one["response"]["body"]["usage"]["completion_tokens"] == 2


def test_a_batch_that_is_killed_goes_on_and_asks_nothing_twice(batch: Batch, engine: Program, tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", 40, tokens=100), tmp_path / "out.jsonl"
    argv = programs.python("-m", "dp_vllm", "batch", str(source), str(target), "--concurrency", "2")
    argv += ["--base-url", engine.url, "--api-key", "k"]
    with programs.running(argv, tmp_path / "log") as program:
        wait_until(lambda: target.exists() and target.read_bytes().count(b"\n") >= 3, program.output)
        program.signal(signal.SIGKILL)
        program.wait()
    kept = read(target)
    assert 3 <= len(kept) < 40
    with target.open("a") as file:
        file.write('{"id": "batch_req_1", "custom_id": "r39", "respo')
    wait_until(lambda: counted(engine, "num_requests_running") == 0, "the engine goes on")
    before = counted(engine, "request_success_total")

    assert batch() == 0

    found = read(target)
    assert len(found) == 40 and kept.items() <= found.items()
    assert counted(engine, "request_success_total") - before == 40 - len(kept)


def counted(program: Program, metric: str) -> float:
    """The sum over all labels."""
    lines = ask(program.url, "GET", "/metrics").body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"vllm:{metric}{{"))


def test_what_is_busy_or_gone_is_asked_again(batch: Batch, engine: Program, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", 3)
    fault(engine, "busy", count=2)
    fault(engine, "close", count=1)

    assert batch() == 0
    assert {one["response"]["status_code"] for one in read(tmp_path / "out.jsonl").values()} == {200}


def test_what_failed_is_kept_and_can_be_asked_again(
    batch: Batch, engine: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in.jsonl", 4)
    fault(engine, "status", status=400, count=1, message="no")

    assert batch("--concurrency", "1") == 1
    first = read(tmp_path / "out.jsonl")["r0"]
    assert (first["response"]["status_code"], first["error"]) == (400, None)
    assert capsys.readouterr().err.endswith("out.jsonl, 1 of them failed\n")

    assert batch() == 1  # nothing is asked, and it is told still
    assert read(tmp_path / "out.jsonl")["r0"] == first
    assert batch("--retry-failed") == 0
    assert read(tmp_path / "out.jsonl")["r0"]["response"]["status_code"] == 200


def test_an_endpoint_that_answers_no_more_ends_the_batch_and_fails_nothing(
    batch: Batch, engine: Program, tmp_path: Path
) -> None:
    write(tmp_path / "in.jsonl", 4)
    fault(engine, "busy")

    with pytest.raises(DpVllmError) as error:
        batch("--retry-seconds", "0.1")
    assert str(error.value).startswith("the endpoint has answered nothing for 0.1 s (")
    assert read(tmp_path / "out.jsonl") == {}


def test_a_wrong_key_ends_the_batch(batch: Batch, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", 4)
    with pytest.raises(DpVllmError) as error:
        batch("--api-key", "other")
    assert str(error.value).startswith("the endpoint refuses the key (status 401): give --api-key KEY")


def test_an_endpoint_of_its_own_is_gone_afterwards(
    tmp_path: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    source, target = write(tmp_path / "in.jsonl", 5), tmp_path / "out.jsonl"

    status = command.main([str(source), str(target), "--", "demo/model", "--engine", "sim"], standalone_mode=False)

    assert (status, len(read(target))) == (0, 5)
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not any(str(short_path) in words for words in commands)
    assert not list((short_path / "dp-vllm").iterdir())


def refused(*words: str) -> str:
    with pytest.raises(DpVllmError) as error:
        command.main([*words], standalone_mode=False)
    return str(error.value)


def test_files_that_cannot_be(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", 2), tmp_path / "out.jsonl"
    assert refused(str(source), str(source)).endswith(
        "is both the requests and the answers; name another file for these"
    )

    target.write_text('{"custom_id": "other", "response": {"status_code": 200}, "error": null}\n')
    assert refused(str(source), str(target)) == (
        f"{target} has 1 answers to requests that are not in {source}; name another file"
    )
    target.write_text("a letter\nof two lines\n")
    assert refused(str(source), str(target)).startswith(f"{target}: line 1 is no answer of a batch: ")
    target.write_text("a note")
    assert refused(str(source), str(target)) == f"{target} is no file of answers; name another one"
    assert target.read_text() == "a note"
    target.unlink()
    with answers.opened(target, retry_failed=False):
        assert refused(str(source), str(target)).startswith(f"another batch writes to {target};")
    assert "No such file or directory" in refused(str(source), str(tmp_path / "none" / "out.jsonl"))
