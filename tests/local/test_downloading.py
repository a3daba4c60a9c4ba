"""How far a download is, by what lies in the hub's cache."""

import json
import os
import time
from pathlib import Path

import pytest

from dp_vllm.engine.hub import cache, folder
from dp_vllm.engine.log import Stage
from dp_vllm.local import downloading

MB = 1_000_000


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A model's folder with one whole file."""
    made = folder("org/model", tmp_path)
    (made / "blobs").mkdir(parents=True)
    (made / "snapshots" / "abc").mkdir(parents=True)
    write(made, "whole", 2 * MB)
    return made


def write(kept: Path, name: str, size: int) -> Path:
    path = kept / "blobs" / name
    path.write_bytes(b"x" * size)
    return path


def say_total(kept: Path, content: object) -> None:
    (kept / "snapshots" / "abc" / "model.safetensors.index.json").write_text(json.dumps(content))


def test_without_a_partial_file_nothing_is_downloaded(kept: Path, tmp_path: Path) -> None:
    assert downloading.stage(kept) is None
    assert downloading.stage(tmp_path / "no such model") is None


@pytest.mark.parametrize("name", ["def.incomplete", "def.1a2b3c.incomplete"])
def test_percent_are_of_what_the_list_of_weights_says(kept: Path, name: str) -> None:
    say_total(kept, {"metadata": {"total_size": 10 * MB}})
    write(kept, name, 2 * MB)
    assert downloading.stage(kept) == Stage("Downloading", "downloading the model", 40)


def test_room_that_was_only_reserved_does_not_count(kept: Path) -> None:
    say_total(kept, {"metadata": {"total_size": 10 * MB}})
    with write(kept, "def.incomplete", 0).open("wb") as file:
        file.truncate(8 * MB)
    assert downloading.stage(kept) == Stage("Downloading", "downloading the model", 20)


@pytest.mark.parametrize("content", [None, {}, {"metadata": {"total_size": "many"}}, []])
def test_without_a_total_it_says_how_much_there_is(kept: Path, content: object) -> None:
    if content is not None:
        say_total(kept, content)
    write(kept, "def.incomplete", 3 * MB)
    assert str(downloading.stage(kept)) == "downloading the model, 0.005 GB so far"


def test_what_a_killed_download_left_is_no_download(kept: Path) -> None:
    left = write(kept, "def.incomplete", MB)
    then = time.time() - downloading.UNUSED_SECONDS - 1
    os.utime(left, (then, then))
    assert downloading.stage(kept) is None


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/home/ann"}, "/home/ann/.cache/huggingface/hub"),
        ({"HOME": "/home/ann", "HF_HOME": "/hf"}, "/hf/hub"),
        ({"HF_HOME": "/hf", "HF_HUB_CACHE": "/models"}, "/models"),
    ],
)
def test_where_the_hub_keeps_models(environ: dict[str, str], expected: str) -> None:
    assert cache(environ) == Path(expected)
