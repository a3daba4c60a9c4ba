"""How many processes of our cgroup the kernel killed for want of memory."""

from pathlib import Path

import pytest

from dp_vllm.local.cgroup import oom_kills


@pytest.mark.parametrize(
    ("membership", "file"),
    [
        pytest.param("0::/user.slice/x.scope\n", "user.slice/x.scope/memory.events", id="v2"),
        pytest.param("0::/../../kubepods/pod1/c\n", "memory.events", id="v2 in a container"),
        pytest.param("5:cpu:/a\n4:memory,blkio:/docker/1\n", "memory/docker/1/memory.oom_control", id="v1"),
        pytest.param("4:memory:/docker/1\n", "memory/memory.oom_control", id="v1 in a container"),
    ],
)
def test_the_count_is_found(tmp_path: Path, membership: str, file: str) -> None:
    (tmp_path / "cgroup").write_text(membership)
    events = tmp_path / "root" / file
    events.parent.mkdir(parents=True)
    events.write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert oom_kills(tmp_path / "root", tmp_path / "cgroup") == 2


def test_where_the_kernel_does_not_say_it_is_none(tmp_path: Path) -> None:
    assert oom_kills(tmp_path / "no root", tmp_path / "no membership") == 0
    assert oom_kills() >= 0
