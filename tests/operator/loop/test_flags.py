"""How the operator says that it cannot begin."""

from pathlib import Path

import programs
import pytest
from meddler import Fate
from ports import free_port
from stage import Scene, Stage

pytestmark = pytest.mark.timeout(120)


def ended(folder: Path, kubeconfig: Path, *flags: str) -> tuple[int, str]:
    """The status and the words of an operator that ends by itself."""
    argv = programs.python("-m", "dp_vllm_operator", "--health-port", str(free_port()), *flags)
    with programs.running(argv, folder / "operator.log", env={"KUBECONFIG": str(kubeconfig)}) as program:
        return program.wait(60), program.output()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--no-such-flag"], "No such option"),
        (["--workers", "0"], "--workers"),
        (["--namespace"], "requires an argument"),
    ],
)
def test_a_wrong_flag_is_named(tmp_path: Path, flags: list[str], words: str) -> None:
    status, output = ended(tmp_path, tmp_path / "none", *flags)
    assert (status, "Traceback" in output) == (2, False)
    assert words in output


def test_without_a_login_it_says_where_it_looked(tmp_path: Path) -> None:
    status, output = ended(tmp_path, tmp_path / "none")
    assert (status, "Traceback" in output) == (1, False)
    assert str(tmp_path / "none") in output


def test_a_port_that_is_taken_is_named(stage: Stage, tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, output = ended(tmp_path, stage.cluster.kubeconfig, "--health-port", str(port))
    assert (status, "Traceback" in output) == (1, False)
    assert f"--health-port: cannot listen on port {port}" in output


async def test_without_the_kind_it_says_how_to_make_it(scene: Scene) -> None:
    scene.meddler.fate = lambda asked: Fate.MISSING if "dpmodels" in asked.path else Fate.PASS
    operator = await scene.operator(ready=False)
    await scene.until(lambda: _is_over(operator.alive), "it has ended")
    assert "the cluster has no kind DPModel: run `dp-vllm crd | kubectl apply -f -`" in operator.output()
    assert "Traceback" not in operator.output()


async def _is_over(alive: bool) -> bool:
    return not alive


@pytest.mark.parametrize("fate", [Fate.UNANSWERED, Fate.TOO_MANY])
async def test_an_api_server_that_cannot_answer_yet_is_waited_for(scene: Scene, fate: Fate) -> None:
    scene.meddler.fate = lambda asked: fate
    operator = await scene.operator(ready=False)
    await scene.until(lambda: _says(operator.log, "waits for the API server"), "it says so")
    assert programs.answers(f"{operator.url}/healthz")
    assert programs.answers(f"{operator.url}/readyz", 503)
    scene.meddler.fate = lambda asked: Fate.PASS
    await operator.ready()
    await scene.apply(replicas=1)
    await scene.until_ready()
    assert 1 <= operator.output().count("waits for the API server") <= 2, "not at each try"


async def _says(log: Path, words: str) -> bool:
    return log.exists() and words in log.read_text()
