"""`make test-docker` and `make images`: `python -m docker.run [words for pytest]`,
`python -m docker.run images [names]`.

Finds a Docker engine or starts one, and takes away what it made there. Where none can be had it says why, in its last
line; only where everything must run (CI is set) is that a failure.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from docker.bill import bill
from docker.debian import Failed
from docker.engine import CommandFailed, Engine, NoEngine, found_or_started
from docker.images import ROOT, TARGETS, TEST_REPOSITORY, Image, build, default_base, import_bases, missing_labels


def test(words: Sequence[str]) -> int:
    """Build all images and run the tests before them; pytest's exit status."""
    with found_or_started() as docker:
        if docker.own:
            import_bases(docker)
        options = ["--network=host"] if docker.own else []
        # vLLM's image is 10 GB; what is tested of ours on top of it needs a Python and no more.
        options += ["--build-arg", f"VLLM_BASE={default_base('PYTHON_BASE')}"]
        built: list[Image] = []
        try:
            for image in build(docker, TARGETS, TEST_REPOSITORY, options):
                built.append(image)
                print(image, flush=True)
            command = [sys.executable, "-m", "pytest", str(Path(__file__).parent), "-m", "docker", *words]
            return subprocess.run(command, cwd=ROOT, env=docker.environment()).returncode
        finally:
            _remove(docker, built)


def build_images(targets: Sequence[str]) -> int:
    """Build these images, with a bill of materials of each in `dist/images`, and what our own engine cannot keep."""
    if unknown := set(targets) - set(TARGETS):
        print(f"there is no image {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    folder = ROOT / "dist" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with found_or_started() as docker:
        if not docker.own:
            for image in build(docker, targets, "dp-vllm", []):
                _check(docker, image, folder)
                print(image, flush=True)
            return 0
        import_bases(docker)
        slim = [target for target in targets if target != "dp-vllm"]
        for image in build(docker, slim, "dp-vllm", ["--network=host"]):
            archive = folder / f"{image.target}.tar"
            docker.run("save", "--output", str(archive), image.tag, seconds=300)
            _check(docker, image, folder)
            print(f"{image}, {archive.relative_to(ROOT)} for `docker load`", flush=True)
        if "dp-vllm" in targets:
            print(f"dp-vllm was left out: {default_base('VLLM_BASE')} needs a registry and a Docker engine that stays")
    return 0


def _check(docker: Engine, image: Image, folder: Path) -> None:
    """Demand its labels, and write down what is in it."""
    if missing := missing_labels(docker, image):
        raise CommandFailed(f"{image.tag} has no label org.opencontainers.image.{', '.join(missing)}")
    (folder / f"{image.target}.cdx.json").write_text(bill(docker, image))


def _remove(docker: Engine, built: Sequence[Image]) -> None:
    if built and not docker.own:
        docker.run("image", "rm", *(image.tag for image in built))


def main(words: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return build_images(words[1:] or TARGETS) if words[:1] == ["images"] else test(words)
    except CommandFailed as error:
        print(error, file=sys.stderr)
        return 1
    except (NoEngine, Failed) as reason:
        print(f"the images were not built: {reason}")
        return int(bool(os.environ.get("CI")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
