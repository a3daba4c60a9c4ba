"""The house as it is drawn: three source roots, one distribution, and nothing heavy in it."""

import subprocess
import sys
import zipfile
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_operator_is_no_package_that_hides_the_standard_library() -> None:
    assert (ROOT / "operator").is_dir()
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_no_package_of_the_tests_hides_another() -> None:
    folder = ROOT / "tests"
    elsewhere = [path for path in sys.path if path and Path(path).resolve() != folder]
    names = {path.parent.name for path in folder.rglob("__init__.py")}
    hidden = {name for name in names if PathFinder.find_spec(name, elsewhere)} | (names & sys.stdlib_module_names)
    assert not hidden


def test_the_wheel_holds_three_packages_with_their_types_and_data(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {
        "dp_vllm",
        "dp_vllm_gateway",
        "dp_vllm_operator",
    }
    for file in (
        "dp_vllm/py.typed",
        "dp_vllm_gateway/py.typed",
        "dp_vllm/engine/flags.json",
        "dp_vllm/engine/causes.toml",
    ):
        assert file in names


def test_the_wheel_needs_neither_vllm_nor_torch(wheel: zipfile.ZipFile) -> None:
    metadata = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    lines = wheel.read(metadata).decode().splitlines()
    needed = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert needed
    assert not [line for line in needed if "vllm" in line or "torch" in line or "kopf" in line]


def test_no_address_of_an_index_is_written_down() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "--hash=sha256:" in lock
    assert "://" not in lock
