"""What starts, and that nothing is left of it in the end."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from . import Cluster, ClusterError
from .processes import LABEL
from .shared import shared_control_plane
from .state import cgroup_prefix, default_state, remove_stale

pytestmark = [pytest.mark.e2e, pytest.mark.own_cluster]


def test_two_control_planes_do_not_collide() -> None:
    with _leaving_nothing() as state, Cluster(state=state) as one, Cluster() as other:
        one.kubectl("create", "namespace", "here")
        assert "here" not in other.kubectl("get", "namespaces", "--output=name")


def test_a_shared_control_plane_ends_with_the_last_who_uses_it(tmp_path: Path) -> None:
    with shared_control_plane(tmp_path) as one:
        with shared_control_plane(tmp_path) as other:
            assert one.state == other.state
        assert "default" in one.kubectl("get", "namespaces", "--output=name")
    assert _traces(one.state) == []


def test_what_is_left_of_a_shared_control_plane_is_removed_by_the_next(tmp_path: Path) -> None:
    program = """if True:
        import sys, pathlib, cluster.shared
        with cluster.shared.shared_control_plane(pathlib.Path(sys.argv[1])) as shared:
            print(shared.state, flush=True)
            input()
    """
    state = _killed_after_its_first_line(program, str(tmp_path))
    assert _traces(Path(state))
    remove_stale()
    assert _traces(Path(state)) == []


def test_failed_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "kubelet"
    broken.write_text("#!/bin/sh\necho no such luck; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    with _leaving_nothing() as state, pytest.raises(ClusterError, match="node1: kubelet has ended:\nno such luck"):
        Cluster(nodes=1, state=state).up()


def test_what_a_killed_owner_leaves_is_removed_by_the_next() -> None:
    program = """if True:
        import sys, pathlib, cluster
        cluster.Cluster(nodes=1, state=pathlib.Path(sys.argv[1])).up()
        print("up", flush=True)
        input()
    """
    with _leaving_nothing() as state:
        assert _killed_after_its_first_line(program, str(state)) == "up"
        assert _traces(state)
        remove_stale()


def _killed_after_its_first_line(program: str, argument: str) -> str:
    command = [sys.executable, "-c", program, argument]
    folder = Path(__file__).parents[1]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, stdin=pipe, stdout=pipe, text=True) as owner:
        assert owner.stdout
        line = owner.stdout.readline().strip()
        owner.kill()
    return line


@contextmanager
def _leaving_nothing() -> Iterator[Path]:
    """A state folder for a cluster of which no trace may be left in the end."""
    state = default_state(f"test-{uuid.uuid4().hex[:8]}")
    before = _host()
    yield state
    assert _traces(state) == []
    assert _host() - before == set()


def _host() -> set[str]:
    """What is mounted and linked on this host."""
    links = {f"link {link.name}" for link in Path("/sys/class/net").iterdir()}
    return links | {f"mount {line}" for line in Path("/proc/self/mounts").read_text().splitlines()}


def _traces(state: Path) -> list[str]:
    """What there is of a cluster on this host: files, cgroups, processes, those in its containers too."""
    cgroup = cgroup_prefix(state)
    traces = [f"file {path}" for path in state.parent.glob(f"{state.name}*")]
    traces += [f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob(f"*/{cgroup}*")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment, command, groups = ((process / name).read_bytes() for name in ("environ", "cmdline", "cgroup"))
        except OSError:
            continue  # it has ended
        if f"{LABEL}={state}".encode() in environment or cgroup.encode() in groups:
            traces.append(f"process {process.name} {command.decode(errors='replace')}")
    return traces
