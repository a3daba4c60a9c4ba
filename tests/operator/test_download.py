"""The download Job's program, with the hub's own client, against a hub that fails on demand."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import downloads
import fake_hub
import pods
import programs
import pytest
from ports import free_port
from programs import wait_until

from dp_vllm.engine import log
from dp_vllm_operator.in_pod.download import File, Place, unwanted

MODEL = "org/m"
INDEX = "model.safetensors.index.json"
WEIGHTS = {"config__json": 10, "tokenizer__json": 20, "model__safetensors": 300_000}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[downloads.Hub]:
    with downloads.hub(tmp_path) as hub:
        yield hub


@pytest.fixture
def job(hub: downloads.Hub, tmp_path: Path) -> downloads.Job:
    message = tmp_path / "termination-log"
    message.touch()
    return downloads.Job(hub.url, tmp_path / "home", message, sys.executable)


def snapshot(job: downloads.Job, model: str = MODEL, revision: str = "main") -> dict[str, int]:
    """The files that an engine finds, with their sizes."""
    folder = job.home / "hub" / f"models--{model.replace('/', '--')}"
    commit = (folder / "refs" / revision).read_text()
    found = (path for path in (folder / "snapshots" / commit).rglob("*") if path.is_file())
    return {str(path.relative_to(folder / "snapshots" / commit)): path.stat().st_size for path in found}


def remains(job: downloads.Job) -> list[Path]:
    return list(job.home.rglob("*.incomplete"))


def test_a_model_is_downloaded_once(hub: downloads.Hub, job: downloads.Job) -> None:
    hub.add(MODEL, **WEIGHTS)
    first = job.run(MODEL)
    assert (first.returncode, first.stdout.splitlines()[-1]) == (0, f"{MODEL} is on the cache volume, 0.0003 GB")
    assert snapshot(job) == {"config.json": 10, "tokenizer.json": 20, "model.safetensors": 300_000}
    asked = hub.requests()
    second = job.run(MODEL)
    assert (second.returncode, second.stdout) == (0, f"{MODEL} is on the cache volume\n")
    assert hub.requests() == asked
    assert job.message.read_text() == ""


@pytest.mark.parametrize(
    ("names", "left_out"),
    [
        pytest.param(
            "model.safetensors pytorch_model.bin x.pth x.pt x.gguf tf_model.h5 flax.msgpack",
            "pytorch_model.bin x.pth x.pt x.gguf tf_model.h5 flax.msgpack",
            id="other forms of the same weights",
        ),
        pytest.param("pytorch_model.bin x.onnx", "x.onnx", id="weights without safetensors"),
        pytest.param(
            "model.safetensors original/consolidated.00.pth original/params.json metal/model.bin",
            "original/consolidated.00.pth metal/model.bin",
            id="the maker's own form",
        ),
        pytest.param(
            "model.safetensors 1_Dense/model.safetensors 2_Dense/pytorch_model.bin", "", id="parts of a model"
        ),
        pytest.param("model.safetensors modeling_x.py vocab.txt spiece.model LICENSE", "", id="what is no weights"),
    ],
)
def test_what_vllm_would_not_read_is_left_out(names: str, left_out: str) -> None:
    files = [File(name, 1, "") for name in names.split()]
    assert {file.name for file in unwanted(files)} == set(left_out.split())


def test_revisions_and_further_models(hub: downloads.Hub, job: downloads.Job) -> None:
    hub.add(MODEL, **WEIGHTS, pytorch_model__bin=300_000)
    hub.add("org/draft", config__json=1)
    hub.add("org/tokenizer", tokenizer__json=1)
    also = ("--also", "org/draft@other", "--also", "org/tokenizer")
    assert job.run(MODEL, "--revision", "other", *also).returncode == 0
    assert snapshot(job, MODEL, "other").keys() == {"config.json", "tokenizer.json", "model.safetensors"}
    assert snapshot(job, "org/draft", "other").keys() == {"config.json"}
    assert snapshot(job, "org/tokenizer").keys() == {"tokenizer.json"}


def test_its_progress_is_what_the_log_rules_read(hub: downloads.Hub, job: downloads.Job) -> None:
    hub.add(MODEL, config__json=10, model__safetensors=60_000_000)
    hub.fault(f"/{MODEL}/resolve", bytes_per_second=40_000_000)  # the client writes pieces of 10 MB
    lines = job.run(MODEL).stdout.splitlines()
    stages = [stage for line in lines if (stage := log.stage([line]))]
    assert {stage.phase for stage in stages} == {"Downloading"}
    shares = [stage.percent or 0 for stage in stages]
    assert len(shares) > 3
    assert shares == sorted(shares)
    assert 0 < shares[len(shares) // 2] < 100
    assert lines[-2].endswith(" of 0.06 GB")


# What another try helps against


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("/api/models", {"status": 503, "count": 2}),
        pytest.param("/api/models", {"status": 429, "count": 2}, marks=pytest.mark.exhaustive),
        pytest.param(f"/{MODEL}/resolve", {"status": 503, "count": 3}, marks=pytest.mark.exhaustive),
        (f"/{MODEL}/resolve", {"cut_after": 100_000, "count": 4}),
    ],
)
def test_what_passes_is_waited_for(path: str, fault: dict[str, int], hub: downloads.Hub, job: downloads.Job) -> None:
    hub.add(MODEL, **WEIGHTS)
    hub.fault(path, **fault)
    result = job.run(MODEL)
    assert result.returncode == 0, result.stdout
    assert snapshot(job)["model.safetensors"] == 300_000


def test_a_killed_download_goes_on_with_the_files_that_it_has(hub: downloads.Hub, job: downloads.Job) -> None:
    hub.add(MODEL, config__json=10, a__safetensors=100_000, b__safetensors=500_000)
    hub.fault(f"/{MODEL}/resolve/{fake_hub.COMMIT}/b", bytes_per_second=100_000)
    with programs.running(job.argv(MODEL), job.home.with_name("log"), env=job.environment) as program:
        wait_until(lambda: bool(remains(job)) and len(snapshot(job)) == 2, "all but one are there")
        program.signal(signal.SIGKILL)
    hub.heal()
    for path in remains(job):
        os.utime(path, (0, 0))
    assert len(remains(job)) == 1
    before = len(hub.requests())
    assert job.run(MODEL).returncode == 0
    assert remains(job) == []
    assert snapshot(job) == {"config.json": 10, "a.safetensors": 100_000, "b.safetensors": 500_000}
    fetched = [line for line in hub.requests()[before:] if line.startswith("GET /org")]
    assert [line.rpartition("/")[2] for line in fetched] == ["b.safetensors"]


def test_it_ends_at_once_when_it_is_told_to(hub: downloads.Hub, job: downloads.Job) -> None:
    hub.add(MODEL, **WEIGHTS)
    hub.fault("/", hang=True)
    with programs.running(job.argv(MODEL), job.home.with_name("log"), env=job.environment) as program:
        wait_until(lambda: hub.requests() != [], "it asks the hub")
        program.signal(signal.SIGTERM)
        assert program.wait(5) == 128 + signal.SIGTERM


# What it does not help against


def ends_with(result: subprocess.CompletedProcess[str], job: downloads.Job, status: int) -> str:
    """The sentence that it ends with; Kubernetes is told the same."""
    assert result.returncode == status, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    said = result.stdout.splitlines()[-1]
    assert job.message.read_text() == said
    return said


@pytest.mark.parametrize(
    ("path", "fault", "status", "expected"),
    [
        (
            f"/{MODEL}/resolve",
            {"status": 401, "code": "GatedRepo"},
            21,
            "ModelGated: accept the licence at {}/org/m and set hfTokenSecretRef to a token of that user",
        ),
        pytest.param(
            f"/{MODEL}/resolve",
            {"status": 403, "code": "GatedRepo"},
            21,
            "ModelGated: accept the licence at {}/org/m and set hfTokenSecretRef to a token of that user",
            marks=pytest.mark.exhaustive,
        ),
        (
            "/api",
            {"status": 403},
            22,
            "TokenRefused: the hub refuses access to org/m: set hfTokenSecretRef to a token",
        ),
    ],
)
def test_a_refusal_is_explained(
    path: str, fault: dict[str, object], status: int, expected: str, hub: downloads.Hub, job: downloads.Job
) -> None:
    hub.add(MODEL, **WEIGHTS)
    hub.fault(path, **fault)
    assert ends_with(job.run(MODEL), job, status) == expected.format(hub.url)
    assert "another token" in ends_with(job.run(MODEL, env={"HF_TOKEN": "hf_x"}), job, status)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("org/none",), "ModelNotFound: there is no {}/org/none; if it is private, set hfTokenSecretRef to a token"),
        (("no model",), "ModelNotFound: there is no {}/no model; if it is private, set hfTokenSecretRef to a token"),
        ((MODEL, "--revision", "none"), "ModelNotFound: org/m has no revision none"),
        (("/nowhere/at/all",), "ModelNotFound: there is nothing at /nowhere/at/all on the cache volume"),
        (("./nowhere",), "ModelNotFound: there is nothing at ./nowhere on the cache volume"),
        ((MODEL, "--also", "org/none"), "ModelNotFound: there is no {}/org/none"),
    ],
)
def test_a_model_that_is_not_there_is_named(
    arguments: tuple[str, ...], expected: str, hub: downloads.Hub, job: downloads.Job
) -> None:
    hub.add(MODEL, **WEIGHTS)
    assert ends_with(job.run(*arguments), job, 23).startswith(expected.format(hub.url))


def test_a_volume_that_is_too_small_is_told_before_anything_comes(hub: downloads.Hub, job: downloads.Job) -> None:
    hub.add(MODEL, config__json=10, model__safetensors=15_000_000_000_000)
    said = ends_with(job.run(MODEL), job, 20)
    assert said.startswith("DiskFull: org/m needs 15000 GB more, and the cache volume has ")
    assert not any("resolve" in line for line in hub.requests())


def test_a_volume_that_becomes_full_is_told(hub: downloads.Hub, job: downloads.Job, tmp_path: Path) -> None:
    hub.add(MODEL, config__json=10, model__safetensors=1_900_000)
    hub.fault(f"/{MODEL}/resolve", bytes_per_second=500_000)
    job.home.mkdir()
    with pods.pod(tmp_path) as pod:
        mount = f'mount -t tmpfs -o size=2m none {job.home} && exec "$@"'
        with pod.container(["sh", "-c", mount, "sh", *job.argv(MODEL)], job.environment) as container:
            volume = Path(f"/proc/{container.main.pid}/root{job.home}")
            wait_until(lambda: any(volume.rglob("*.incomplete")), "the download has begun")
            with pytest.raises(OSError, match="No space left"):
                (volume / "of-somebody-else").write_bytes(bytes(4_000_000))
            assert container.program.wait() == 20
        said = container.program.output().splitlines()[-1]
        assert said == "DiskFull: the cache volume became full before all of org/m was there: give it a larger one"


def test_a_volume_that_cannot_be_written_is_told(hub: downloads.Hub, job: downloads.Job, tmp_path: Path) -> None:
    hub.add(MODEL, **WEIGHTS)
    job.home.mkdir()
    with pods.pod(tmp_path) as pod:
        mount = f'mount -t tmpfs -o ro none {job.home} && exec "$@"'
        with pod.container(["sh", "-c", mount, "sh", *job.argv(MODEL)], job.environment) as container:
            assert container.program.wait() == 24
        assert "CacheNotWritable: user " in container.program.output()


@pytest.mark.parametrize("fault", [{"status": 503}, {"hang": True}])
def test_a_hub_that_does_not_come_back_is_told(
    fault: dict[str, object], hub: downloads.Hub, job: downloads.Job
) -> None:
    hub.add(MODEL, **WEIGHTS)
    hub.fault("/", **fault)
    said = ends_with(job.run(MODEL, "--give-up-seconds", "4"), job, 10)
    assert said.startswith("HubUnreachable: ")
    assert MODEL in said


def test_a_cluster_without_a_way_to_the_hub_is_told(job: downloads.Job) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    said = ends_with(job.run(MODEL, "--give-up-seconds", "4", env={"HF_ENDPOINT": url}), job, 10)
    assert said.startswith(f"HubUnreachable: {url}/org/m cannot be had: ")
    assert "refused" in said


def test_an_image_without_the_hubs_library_is_told(job: downloads.Job, tmp_path: Path) -> None:
    bare = [sys.executable, "-I", "-S", downloads.PROGRAM, MODEL]
    result = subprocess.run(bare, env=job.environment, capture_output=True, text=True)
    assert ends_with(result, job, 25).startswith("NoHubLibrary: the engine's image has no huggingface_hub")


# Without a hub


def test_what_was_downloaded_needs_no_hub(hub: downloads.Hub, job: downloads.Job) -> None:
    hub.add(MODEL, **WEIGHTS)
    assert job.run(MODEL).returncode == 0
    offline = {"HF_HUB_OFFLINE": "1"}
    assert job.run(MODEL, env=offline).returncode == 0
    (job.home / "hub/models--org--m/snapshots" / fake_hub.COMMIT / "tokenizer.json").unlink()
    said = ends_with(job.run(MODEL, env=offline), job, 26)
    assert said == "HubNotAsked: HF_HUB_OFFLINE is set, and org/m is not on the cache volume"


def fill(cache: Path, names: str, index: str = "") -> Place:
    """Put files into a cache as another program does."""
    place = Place(MODEL, "main", cache)
    snapshot = place.folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (place.folder / "refs").mkdir()
    (place.folder / "refs" / "main").write_text("abc")
    for name in names.split():
        (snapshot / name).write_text(index if name == INDEX else "{}")
    return place


@pytest.mark.parametrize(
    ("names", "index", "is_whole"),
    [
        ("config.json model.safetensors", "", True),
        ("params.json consolidated.safetensors", "", True),
        ("config.json pytorch_model.bin", "", True),
        ("config.json", "", False),
        ("model.safetensors", "", False),
        (f"config.json a.safetensors {INDEX}", '{"weight_map": {"x": "a.safetensors"}}', True),
        (f"config.json a.safetensors {INDEX}", '{"weight_map": {"x": "b.safetensors"}}', False),
        (f"config.json a.safetensors {INDEX}", "{", False),
        (f"config.json a.safetensors {INDEX}", "[]", False),
    ],
)
def test_what_somebody_else_put_there_is_looked_at(names: str, index: str, is_whole: bool, tmp_path: Path) -> None:
    assert fill(tmp_path, names, index).looks_complete() == is_whole


def test_what_somebody_else_put_there_is_taken_if_the_hub_does_not_help(hub: downloads.Hub, job: downloads.Job) -> None:
    fill(job.home / "hub", "config.json model.safetensors")
    result = job.run(MODEL)
    assert result.returncode == 0
    assert result.stdout.startswith(f"{MODEL} is on the cache volume, put there by somebody else; ")
    assert job.message.read_text() == ""


@pytest.mark.parametrize("model", ["s3://bucket/model", "{}/models"])
def test_what_needs_no_download(model: str, job: downloads.Job, hub: downloads.Hub, tmp_path: Path) -> None:
    result = job.run(model.format(tmp_path))
    assert (result.returncode, hub.requests()) == (0, [])
