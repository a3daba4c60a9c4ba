"""Where a run keeps its things."""

from pathlib import Path

import pytest

from dp_vllm.errors import BadSettings, UserError
from dp_vllm.local.run_directory import run_directory


def test_everything_of_a_run_is_in_one_directory(tmp_path: Path) -> None:
    directory = run_directory("8000", {"XDG_RUNTIME_DIR": str(tmp_path), "XDG_STATE_HOME": "/state"})

    assert directory.name == "8000"
    assert directory.path == tmp_path / "dp-vllm" / "8000"
    assert {
        directory.endpoints.name: directory.endpoints.parent,
        directory.admin_socket.name: directory.admin_socket.parent,
        directory.keys.name: directory.keys.parent,
        directory.run.name: directory.run.parent,
        directory.engine_config.name: directory.engine_config.parent,
        directory.replica_socket("0").name: directory.replica_socket("0").parent,
    } == dict.fromkeys(
        ["endpoints.json", "admin.sock", "keys", "run.json", "engine.yaml", "replica-0.sock"], directory.path
    )
    assert directory.replica_log("0") == Path("/state/dp-vllm/8000/replica-0.log")
    assert directory.gateway_log == Path("/state/dp-vllm/8000/gateway.log")


@pytest.mark.parametrize("given", ["", "relative", "/run/user/of-another-machine"])
def test_without_a_usable_runtime_directory_it_is_below_tmp(given: str) -> None:
    assert run_directory("a", {"XDG_RUNTIME_DIR": given}, uid=1234).path == Path("/tmp/dp-vllm-1234/a")


@pytest.mark.parametrize(
    ("environ", "logs"),
    [
        ({"XDG_STATE_HOME": "/state", "HOME": "/home/me"}, "/state/dp-vllm/a"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/home/me"}, "/home/me/.local/state/dp-vllm/a"),
        ({"HOME": "/home/me"}, "/home/me/.local/state/dp-vllm/a"),
        ({"HOME": "/"}, "/tmp/dp-vllm-7/logs/a"),
        ({}, "/tmp/dp-vllm-7/logs/a"),
    ],
)
def test_logs_outlive_the_run_where_there_is_a_home(environ: dict[str, str], logs: str) -> None:
    assert run_directory("a", environ, uid=7).logs == Path(logs)


def test_logs_can_be_sent_elsewhere() -> None:
    assert run_directory("a", {}, log_dir=Path("/logs")).logs == Path("/logs")


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "-a", "a b", "x" * 64])
def test_a_name_is_a_file_name_that_hurts_nobody(name: str) -> None:
    with pytest.raises(BadSettings, match=r"^--name: .* cannot name a run; use up to 63 letters"):
        run_directory(name, {})


def test_a_path_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()

    with pytest.raises(UserError, match=r"is too long a path .* at most 107\); give a shorter --name"):
        run_directory("a", {"XDG_RUNTIME_DIR": str(deep)})
