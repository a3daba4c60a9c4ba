"""What a release says of itself agrees everywhere, and its README leads somewhere from an index too."""

import importlib.util
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def module(path: str) -> ModuleType:
    """One of the files that only a build uses."""
    specification = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert specification and specification.loader
    made = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(made)
    return made


FACTS, README = module("release/facts.py"), module("gateway/hatch_readme.py")


def test_all_files_agree() -> None:
    assert FACTS.problems() == []


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("pyproject.toml", 'version = "0', 'version = "9', "Chart.yaml: appVersion is 0"),
        ("docs/kubernetes.md", "dp-vllm/sim:0", "dp-vllm/sim:9", "docs/kubernetes.md: names an image of 9"),
        ("charts/dp-vllm/Chart.yaml", "home: https://", "home: https://x.", "Chart.yaml: https://x."),
        ("charts/dp-vllm/README.md", f"]({FACTS.home()}/blob/HEAD/", "](../", "is not at https://"),
        ("charts/dp-vllm/Chart.yaml", "icon:", "picture:", "Chart.yaml: icon is missing"),
        ("charts/dp-vllm/Chart.yaml", "artifacthub.io/crds:", "artifacthub.io/c:", "artifacthub.io/crds is missing"),
        ("docker/Dockerfile", "image.source", "image.sauce", "no label org.opencontainers.image.source"),
        ("CHANGELOG.md", "## 0", "## 9", "CHANGELOG.md: has nothing about 0"),
    ],
)
def test_what_does_not_agree_is_named(tmp_path: Path, file: str, old: str, new: str, problem: str) -> None:
    for name in {*FACTS.HOMES, *FACTS._USES_IMAGES, "CHANGELOG.md"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    changed = tmp_path / file
    changed.write_text(changed.read_text().replace(old, new))

    assert [said for said in FACTS.problems(tmp_path) if problem in said]


@pytest.mark.parametrize(
    ("url", "placeholder"),
    [("https://git.example.org/x", True), ("https://example.com", True), ("https://x.test/a", True),
     ("https://github.com/example/x", False), ("https://myexample.org/x", False)],
)  # fmt: skip
def test_a_home_under_a_reserved_name_is_a_placeholder(url: str, placeholder: bool) -> None:
    assert FACTS.is_placeholder(url) == placeholder


def test_every_link_of_the_distribution_s_readme_is_absolute() -> None:
    text = README.absolute((ROOT / "README.md").read_text(), "https://home/p", "v1")

    targets = re.findall(r"\]\(([^)]*)\)", text)
    assert len(targets) > 20
    assert [target for target in targets if not target.startswith("https://")] == []
    assert "![four replicas" in text and "](https://home/p/raw/v1/docs/images/serve.svg)" in text
    assert "(https://home/p/blob/v1/docs/local.md#start)" in text
    for path in re.findall(r"https://home/p/(?:blob|raw)/v1/([^)#]*)", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize(
    ("text", "absolute"),
    [
        ("[a](#b)", "[a](https://h/blob/v/README.md#b)"),
        ("[![i](x.svg)](y.md)", "[![i](https://h/raw/v/x.svg)](https://h/blob/v/y.md)"),
        ("[a](https://b)", "[a](https://b)"),
        ("a[0](b c)", "a[0](b c)"),
    ],
)
def test_links_are_read_as_markdown(text: str, absolute: str) -> None:
    assert README.absolute(text, "https://h", "v") == absolute
