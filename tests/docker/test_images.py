"""What is in the images, and what is not."""

import json
import re
import tomllib
from typing import Any

import pytest
from docker.bill import bill
from docker.engine import Engine
from docker.images import ROOT, TARGETS, Image, missing_labels, tag, version

pytestmark = pytest.mark.docker

SLIM = ("gateway", "sim", "operator")

INSTALLED = """
from importlib.metadata import distributions
print(*(f"{one.name}=={one.version}".lower().replace("_", "-") for one in distributions()))
"""


def config(docker: Engine, target: str) -> Any:
    return json.loads(docker.run("image", "inspect", "--format", "{{json .Config}}", tag(target)))


def installed(docker: Engine, target: str) -> set[str]:
    options = ("--rm", "--network=none", "--entrypoint=/opt/dp-vllm/bin/python")
    return set(docker.run("run", *options, tag(target), "-I", "-c", INSTALLED).split())


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_installed_is_what_the_lock_says(docker: Engine, target: str) -> None:
    locked = set(re.findall(r"^([\w.-]+==[\w.]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    ours = f"dp-vllm=={version()}"
    found = installed(docker, target)
    assert ours in found
    assert found - {ours} <= locked


@pytest.mark.parametrize("target", SLIM)
def test_slim_images_have_what_they_need_and_no_engine(docker: Engine, target: str) -> None:
    names = {one.partition("==")[0] for one in installed(docker, target)}
    assert not names & {"vllm", "torch", "pip", "pytest"}
    assert ("kubernetes" in names) == (target in ("gateway", "operator"))
    assert ("kopf" in names) == (target == "operator")


@pytest.mark.parametrize("target", TARGETS)
def test_the_gateway_of_pods_is_compiled_and_the_others_run_on_any_python(docker: Engine, target: str) -> None:
    options = ("--rm", "--network=none", "--entrypoint=/opt/dp-vllm/bin/python")
    code = "from dp_vllm_gateway import proxy; print(proxy.__file__)"
    file = docker.run("run", *options, tag(target), "-I", "-c", code)
    assert file.endswith(".so") == (target == "gateway"), file


@pytest.mark.parametrize("target", SLIM)
def test_slim_images_run_as_a_number_that_is_not_root(docker: Engine, target: str) -> None:
    assert config(docker, target)["User"] == "65532:65532"


@pytest.mark.parametrize("target", SLIM)
def test_the_bill_of_materials_names_what_is_installed(docker: Engine, target: str) -> None:
    said = json.loads(bill(docker, Image(target, tag(target), 0, 0.0)))
    names = {(one["name"].lower().replace("_", "-"), one["version"]) for one in said["components"]}

    assert {tuple(one.split("==")) for one in installed(docker, target)} <= names
    assert any(one["purl"].startswith("pkg:deb/debian/libc6@") for one in said["components"])


@pytest.mark.parametrize("target", TARGETS)
def test_labels_say_what_an_image_is(docker: Engine, target: str) -> None:
    labels = config(docker, target)["Labels"]
    assert labels["org.opencontainers.image.version"] == version()
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.title"].startswith("dp-vllm")
    home = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Homepage"]
    assert labels["org.opencontainers.image.source"] == labels["org.opencontainers.image.url"] == home
    assert missing_labels(docker, Image(target, tag(target), 0, 0.0)) == []


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_of_the_build_stays_in_an_image(docker: Engine, target: str) -> None:
    places = "/run/secrets/* /root/.cache/uv/* /root/.cache/pip/* /mnt/* /build/* /opt/uv"
    options = ("--rm", "--user=0", "--network=none", "--entrypoint=sh")
    found = docker.run("run", *options, tag(target), "-c", f"ls -d {places} || :")
    assert found == ""


def test_the_operator_image_says_what_it_lacks_outside_a_cluster(docker: Engine) -> None:
    options = ("--rm", "--read-only", "--network=none")
    assert docker.run("run", *options, tag("operator"), "--version") == f"dp-vllm-operator {version()}"
    done = docker.ended("run", *options, tag("operator"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "no Kubernetes to log in to" in done.stderr
    assert "Traceback" not in done.stderr
