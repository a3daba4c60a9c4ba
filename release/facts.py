"""What must agree in a release, read from the files that say it. Pure but for reading them."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[1]
RESERVED: Final = re.compile(r"//([^/]*\.)?(example|invalid|test|localhost|example\.(com|net|org))(/|$)")
"""Names that nobody can have (RFC 2606): a home there is a placeholder."""

CHART_README: Final = "charts/dp-vllm/README.md"
"""Read in the chart's package and on Artifact Hub, where no other file is."""
HOMES: Final = ("pyproject.toml", "charts/dp-vllm/Chart.yaml", "docker/Dockerfile", CHART_README)
"""Files that say where the project is at home; `make home URL=...` writes into all of them."""

_IMAGE: Final = re.compile(r"(?<![\w./-])dp-vllm/(?:dp-vllm|gateway|operator|sim):([\w.-]+)")
_USES_IMAGES: Final = ("README.md", "docs/kubernetes.md", "examples/compose.yaml", "examples/sim.yaml",
                       "charts/dp-vllm/Chart.yaml")  # fmt: skip
_IN_CHART: Final = ("home", "icon", "sources", "maintainers", "keywords", "description", "kubeVersion")
_FOR_ARTIFACT_HUB: Final = ("category", "license", "operator", "images", "crds", "crdsExamples", "links")
_LABELS: Final = ("title", "description", "licenses", "vendor", "url", "source", "documentation")
_LINK: Final = re.compile(r"\]\(([^)]*)\)")
_URL: Final = re.compile(r"""https?://[^\s"'<>)\],}]+""")


def project(root: Path = ROOT) -> dict[str, Any]:
    """The table `[project]`."""
    table: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return table


def home(root: Path = ROOT) -> str:
    """Where the project is at home."""
    return str(project(root)["urls"]["Homepage"])


def is_placeholder(url: str) -> bool:
    """Whether nothing can be there."""
    return RESERVED.search(url) is not None


def problems(root: Path = ROOT) -> list[str]:
    """What does not agree, or is missing; each a sentence that names the file."""
    return [*_versions(root), *_homes(root), *_chart(root), *_labels(root), *_changelog(root)]


def _versions(root: Path) -> Iterator[str]:
    version = project(root)["version"]
    chart = _chart_yaml(root)
    for field in ("version", "appVersion"):
        if chart[field] != version:
            yield f"charts/dp-vllm/Chart.yaml: {field} is {chart[field]}, that of pyproject.toml is {version}"
    for file in _USES_IMAGES:
        for tag in sorted(set(_IMAGE.findall((root / file).read_text())) - {version}):
            yield f"{file}: names an image of {tag}, the version of pyproject.toml is {version}"


def _homes(root: Path) -> Iterator[str]:
    url = home(root)
    for name, target in project(root)["urls"].items():
        if not target.startswith(url):
            yield f"pyproject.toml: urls.{name} is {target}, which is not at {url}"
    for file in HOMES[1:]:
        text = (root / file).read_text()
        for target in _LINK.findall(text) if file == CHART_README else _URL.findall(text):
            if not target.startswith((url, "#")):
                yield f"{file}: {target} is not at {url}"


def _chart(root: Path) -> Iterator[str]:
    chart = _chart_yaml(root)
    for field in _IN_CHART:
        if not chart.get(field):
            yield f"charts/dp-vllm/Chart.yaml: {field} is missing"
    annotations = chart.get("annotations", {})
    for name in _FOR_ARTIFACT_HUB:
        if f"artifacthub.io/{name}" not in annotations:
            yield f"charts/dp-vllm/Chart.yaml: the annotation artifacthub.io/{name} is missing"
    for name, text in annotations.items():
        if isinstance(text, str) and text.startswith("- ") and not isinstance(yaml.safe_load(text), list):
            yield f"charts/dp-vllm/Chart.yaml: the annotation {name} is no list"


def _labels(root: Path) -> Iterator[str]:
    text = (root / "docker" / "Dockerfile").read_text()
    for stage in ("python", "dp-vllm"):  # the first is the base of all the others
        body = re.split(r"^FROM ", text, flags=re.MULTILINE)
        (own,) = (part for part in body if re.match(rf"\S+ AS {stage}\n", part))
        for label in _LABELS[2:] if stage == "python" else _LABELS:
            if f"org.opencontainers.image.{label}=" not in own:
                yield f"docker/Dockerfile: the stage {stage} has no label org.opencontainers.image.{label}"


def _changelog(root: Path) -> Iterator[str]:
    if f"## {project(root)['version']}" not in (root / "CHANGELOG.md").read_text():
        yield f"CHANGELOG.md: has nothing about {project(root)['version']}"


def _chart_yaml(root: Path) -> dict[str, Any]:
    chart: dict[str, Any] = yaml.safe_load((root / "charts" / "dp-vllm" / "Chart.yaml").read_text())
    return chart
