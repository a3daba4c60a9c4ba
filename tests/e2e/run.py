"""`make e2e`: `python -m e2e.run [words for pytest]`. Kubernetes with real nodes, and the project's images in its pods.

`make e2e-vllm` adds the words that choose the tests with the real engine.

Builds what is missing into the user's cache. Where nodes cannot be had it says why, in its last line; only where
everything must run (CI is set) is that a failure.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cluster import ClusterError, binaries
from cluster.given import given_cluster
from cluster.prerequisites import why_no_nodes, why_none
from docker.debian import Failed
from docker.engine import CommandFailed, NoEngine
from docker.images import ROOT
from e2e.images import ARCHIVE_VARIABLE, archive

_TESTS: Final = Path(__file__).parents[1]
_PARTS: Final = ("etcd", "plane", "node", "dns", "helm")
_MARKED: Final = "e2e and not vllm"
_TEST_SECONDS: Final = 300


def main(words: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        prepare()
        images = archive()
    except CommandFailed as error:
        print(error, file=sys.stderr)
        return 1
    except (ClusterError, NoEngine, Failed) as reason:
        print(f"the tests with Kubernetes nodes were not run: {reason}")
        return int(bool(os.environ.get("CI")))
    where = [] if any(Path(word.partition("::")[0]).exists() for word in words) else [str(_TESTS)]
    command = [sys.executable, "-m", "pytest", *where, "-m", _MARKED, "-o", f"timeout={_TEST_SECONDS}", *words]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {ARCHIVE_VARIABLE: str(images)}).returncode


def prepare() -> None:
    """Get the programs of a cluster, unless one is given."""
    if given_cluster():
        return
    if reason := why_no_nodes():
        raise ClusterError(reason)
    binaries.fetch_debian_packages()
    binaries.build(_PARTS)
    if reason := why_none(nodes=True) or binaries.lacking(["helm"]):
        raise ClusterError(reason)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
