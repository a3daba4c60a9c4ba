"""Which engines may be started without the hub, and with what."""

from dataclasses import replace
from pathlib import Path

import downloads
import fake_hub
import pytest

from dp_vllm.engine.causes import Cause
from dp_vllm.engine.hub import Repository, pinnable
from dp_vllm.local.hub_access import Access, HubAccess
from dp_vllm.local.process import Exit, Program

WAS = "a" * 40
"""The commit of before."""


@pytest.mark.parametrize(
    ("model", "words", "environ", "repositories"),
    [
        ("org/m", "", {}, [Repository("org/m")]),
        ("org/m", "--revision v1 --tokenizer org/t", {}, [Repository("org/m", "v1"), Repository("org/t")]),
        ("/models/m", "", {}, []),
        ("org/m", "--download-dir /d", {}, []),
        ("org/m", "--enable-lora", {}, []),
        ("org/m", "--lora-modules a=org/a", {}, []),
        ("org/m", "--hf-config-path org/c", {}, []),
        ("org/m", "", {"HF_HUB_OFFLINE": "0"}, []),
        ("org/m", "", {"TRANSFORMERS_OFFLINE": "1"}, []),
        ("org/m", "", {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}, []),
        ("org/m", "", {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "0"}, [Repository("org/m")]),
    ],
)
def test_only_an_engine_whose_every_download_is_known_can_do_without_the_hub(
    model: str, words: str, environ: dict[str, str], repositories: list[Repository]
) -> None:
    assert list(pinnable(model, words.split(), environ)) == repositories


async def test_where_the_hub_has_moved_the_run_stays(tmp_path: Path) -> None:
    said: list[str] = []
    with downloads.hub(tmp_path) as hub:
        hub.add("org/m", config__json=10)
        environ = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache")}
        program = Program("replica-1", ("vllm", "serve", "org/m"), environ, tmp_path / "log")
        refs = tmp_path / "cache" / "models--org--m" / "refs" / "main"
        refs.parent.mkdir(parents=True)
        access = Access(HubAccess(said.append), "1", (Repository("org/m"),))
        assert await access.prepared(program) == program and not access.question, "nobody has downloaded it yet"

        refs.write_text(WAS)
        await access.note_ready(program)
        pinned = await access.prepared(program)

        assert pinned.argv == (*program.argv, "--revision", WAS)
        assert pinned.environment == {**environ, "HF_HUB_OFFLINE": "1"}
        assert said == [
            f"replica 1 starts from the cache, with the org/m that this run serves ({WAS[:12]}): "
            f"org/m has moved to {fake_hub.COMMIT[:12]} at the hub meanwhile"
        ]
        assert not access.excuses(Exit(code=1), Cause("OutOfGPUMemory", "", "")), "the hub would not have helped"
        assert access.excuses(Exit(code=1), Cause("ModelNotCached", "", ""))
        assert await access.prepared(program) == replace(pinned, environment=environ), "it may fetch what is missing"
