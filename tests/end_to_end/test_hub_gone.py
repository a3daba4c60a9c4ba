"""Replicas that start while the hub is silent or has moved on: all serve what the run began with."""

import sys
from pathlib import Path

import downloads
import fake_hub
import pytest
from deployments import MODEL, Served, kill, serve
from programs import wait_until

from dp_vllm.local.operate import change

SCRIPT = """\
#!/bin/sh
echo "begun with HF_HUB_OFFLINE=$HF_HUB_OFFLINE and $*"
if [ "$HF_HUB_OFFLINE" ] && [ -e {missing} ]; then echo "offline mode is enabled"; exit 1; fi
shift
exec {python} -I -m dp_vllm.sim "$@"
"""
MOVED = "f" * 40


@pytest.fixture
def vllm(tmp_path: Path) -> Path:
    """A vLLM for CPUs that is simulated and says with what it began. Beside `missing` it finds nothing in the cache."""
    (tmp_path / "lib" / "python3.12" / "site-packages" / "vllm-0.32.0+cpu.dist-info").mkdir(parents=True)
    executable = tmp_path / "bin" / "vllm"
    executable.parent.mkdir()
    executable.write_text(SCRIPT.format(missing=tmp_path / "missing", python=sys.executable))
    executable.chmod(0o755)
    return executable


def begun(served: Served) -> list[str]:
    """With what each of the engines began."""
    log = served.directory.replica_log("0").read_text()
    return [line for line in log.splitlines() if line.startswith("begun with")]


def restarted(served: Served) -> str:
    """With what the next engine begins that serves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(served.directory.path.parents[1]))
        assert change.restart.main(["0"], standalone_mode=False) == 0
    return begun(served)[-1]


def test_replicas_that_start_late_serve_what_the_run_serves(tmp_path: Path, vllm: Path) -> None:
    with downloads.hub(tmp_path) as hub:
        hub.add(MODEL, config__json=10)
        refs = tmp_path / "hf" / "hub" / "models--demo--model" / "refs" / "main"
        refs.parent.mkdir(parents=True)
        refs.write_text(fake_hub.COMMIT)
        at_hub = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        with serve(engine=str(vllm), replicas=1, environ=at_hub) as served:
            (first,) = begun(served)
            assert "HF_HUB_OFFLINE= " in first and f"--served-model-name {MODEL} " in first
            assert restarted(served) == first, "the hub has the same"

            hub.fault(f"/api/models/{MODEL}", status=429)
            refs.write_text(MOVED)  # another program has downloaded what is new
            without = restarted(served)
            assert "HF_HUB_OFFLINE=1 " in without and without.endswith(f" --revision {fake_hub.COMMIT}")
            assert served.program.output().count("replica 0 starts from the cache, with the demo/model that") == 1

            (tmp_path / "missing").touch()
            kill(served.pids()["0"])
            wait_until(lambda: len(begun(served)) == 5 and served.serves(0), "it is back at the second attempt")
            again = without.replace("HF_HUB_OFFLINE=1", "HF_HUB_OFFLINE=")
            assert begun(served)[-2:] == [without, again], (
                "once something was missing, the hub is asked for that commit"
            )
