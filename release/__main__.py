"""Builds what a release consists of, checks it, and uploads nothing: `python -m release [home URL]`, by `make release`.

A source distribution, the wheel that it builds, the chart, and a bill of materials (CycloneDX) of what the wheel
installs, in `dist/release`. Images are built and checked by `make test-docker` and `make images`.
"""

import json
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from email import message_from_bytes
from pathlib import Path
from typing import Final

from release import facts
from release.facts import ROOT

OUT: Final = ROOT / "dist" / "release"
UV: Final = ROOT / ".venv" / "bin" / "uv"
BIN: Final = ROOT / ".venv-release" / "bin"
START_SECONDS: Final = 60.0


class Failed(Exception):
    """A check failed; a sentence."""


def run(*words: str | Path, cwd: Path = ROOT) -> str:
    """What the program prints. Raises Failed with it."""
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stdout


def demand(condition: object, problem: str) -> None:
    if not condition:
        raise Failed(problem)


# What is built


def agree() -> None:
    found = facts.problems()
    demand(not found, "\n".join(found))


def packages() -> None:
    """The wheel is built from the source distribution, and has what one built from the sources has."""
    build = (UV, "build", "--quiet", "--build-constraint", ROOT / "requirements.lock")
    run(*build, "--sdist", "--out-dir", OUT)
    run(*build, "--wheel", "--out-dir", OUT, sdist())
    beside = OUT / "from-sources"
    run(*build, "--wheel", "--out-dir", beside)
    names = [sorted(zipfile.ZipFile(file).namelist()) for file in (wheel(), *beside.glob("*.whl"))]
    demand(names[0] == names[1], f"the sdist's wheel has other files: {set(names[0]) ^ set(names[1])}")
    shutil.rmtree(beside)
    (OUT / ".gitignore").unlink(missing_ok=True)


def sdist() -> Path:
    return OUT / f"dp_vllm-{facts.project()['version']}.tar.gz"


def wheel() -> Path:
    return OUT / f"dp_vllm-{facts.project()['version']}-py3-none-any.whl"


def metadata() -> None:
    """An index takes both, shows a README whose links lead somewhere, and links to the project."""
    run(BIN / "twine", "check", "--strict", sdist(), wheel())
    with zipfile.ZipFile(wheel()) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        said = message_from_bytes(archive.read(name))
        demand(any(one.endswith("licenses/LICENSE") for one in archive.namelist()), "the wheel has no license")
    readme = str(said.get_payload())
    relative = [link for link in re.findall(r"\]\(([^)]*)\)", readme) if not link.startswith("https://")]
    demand(readme and not relative, f"the README's links are relative: {relative}")
    urls = said.get_all("Project-URL") or []
    demand(len(urls) == len(facts.project()["urls"]), f"the wheel's project URLs are {urls}")
    with tarfile.open(sdist()) as source:
        inside = {one.name.partition("/")[2] for one in source}
    wanted = {"README.md", "LICENSE", "SECURITY.md", "CHANGELOG.md", "pyproject.toml", "gateway/hatch_build.py"}
    demand(wanted <= inside, f"the sdist lacks {wanted - inside}")


def installed() -> None:
    """The wheel, in an environment with nothing else, serves."""
    environment = ROOT / ".venv-release-wheel"
    python = environment / "bin" / "python"
    run(UV, "venv", "--quiet", "--clear", "--python", ROOT / ".venv" / "bin" / "python", environment)
    run(UV, "pip", "install", "--quiet", "--python", python, "--constraint", ROOT / "requirements.lock", wheel())
    version = facts.project()["version"]
    said = run(environment / "bin" / "dp-vllm", "--version", cwd=OUT)
    demand(version in said.split(), f"dp-vllm --version says {said.strip()!r}, not {version}")
    serves(environment / "bin" / "dp-vllm")
    materials(python)


def serves(program: Path) -> None:
    """Two simulated engines behind one endpoint: ready, one answer, and an end in order."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    flags = ("--engine", "sim", "-dp", "2", "--host", "127.0.0.1", "--port", port)
    command = [str(program), "serve", "demo/model", *flags]
    url = f"http://127.0.0.1:{port}"
    log = OUT / "serve.log"
    with log.open("w") as output, subprocess.Popen(command, cwd=OUT, stdout=output, stderr=output) as served:
        try:
            until(lambda: answers(f"{url}/health"), log)
            body = json.dumps({"model": "demo/model", "prompt": "Hello"}).encode()
            request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=30) as response:
                demand(json.load(response)["choices"][0]["text"], "the endpoint's answer is empty")
        finally:
            served.terminate()
            status = served.wait(START_SECONDS)
    demand(status == 0, f"dp-vllm serve ended with {status}:\n{log.read_text()}")
    log.unlink()


def until(look: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while not look():
        demand(time.monotonic() < end, f"dp-vllm serve does not answer:\n{log.read_text()}")
        time.sleep(0.2)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def materials(python: Path) -> None:
    """The bill of materials of what the wheel installs."""
    version = facts.project()["version"]
    file = OUT / f"dp-vllm-{version}.cdx.json"
    run(BIN / "cyclonedx-py", "environment", "--output-reproducible", "--pyproject", ROOT / "pyproject.toml",
        "--output-file", file, python)  # fmt: skip
    said = json.loads(file.read_text())
    names = {one["name"] for one in said["components"]}
    demand({"aiohttp", "msgspec", "uvloop"} <= names, f"the bill of materials has only {sorted(names)}")
    demand(said["metadata"]["component"]["version"] == version, "the bill of materials is of another version")


def chart() -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    from cluster import binaries

    helm = binaries.find("helm")
    demand(helm, binaries.lacking(["helm"]))
    source = ROOT / "charts" / "dp-vllm"
    for values in ([], *([f"--values={file}"] for file in sorted((source / "ci").glob("*.yaml")))):
        run(str(helm), "lint", "--strict", source, *values)
    run(str(helm), "package", source, "--destination", OUT)
    package = OUT / f"dp-vllm-{facts.project()['version']}.tgz"
    run(str(helm), "template", "dp-vllm", package, "--namespace", "ns")
    with tarfile.open(package) as archive:
        inside = {one.name for one in archive}
    demand({"dp-vllm/README.md", "dp-vllm/crds.yaml", "dp-vllm/values.schema.json"} <= inside, "the chart lacks files")
    demand(not any(name.startswith("dp-vllm/ci/") for name in inside), "the chart has the values of tests")


STEPS: Final = (
    ("versions, home and metadata agree", agree),
    ("the sdist builds the wheel", packages),
    ("an index takes both", metadata),
    ("the wheel serves from an empty environment", installed),
    ("the chart is linted and packed", chart),
)


def release() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    for words, step in STEPS:
        began = time.monotonic()
        step()
        print(f"{words:<50} {time.monotonic() - began:5.1f} s", flush=True)
    for file in sorted(OUT.iterdir()):
        print(f"  {file.relative_to(ROOT)}  {file.stat().st_size / 1000:,.0f} kB")
    if facts.is_placeholder(facts.home()):
        print(f"not to be uploaded yet: {facts.home()} is a placeholder; make home URL=https://...")


def rename(url: str) -> None:
    """Write another home into every file that says it."""
    demand(url.startswith("https://") and not url.endswith("/"), f"{url!r} must begin with https:// and end without /")
    before = facts.home()
    for name in facts.HOMES:
        file = ROOT / name
        file.write_text(file.read_text().replace(before, url))


def main(words: Sequence[str]) -> int:
    try:
        rename(words[1]) if words[:1] == ["home"] else release()
    except Failed as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
