"""What the kernel says of this process's cgroup: whether processes were killed in it for want of memory.

Engines are in the same one, unless their user moved them. https://docs.kernel.org/admin-guide/cgroup-v2.html
"""

import contextlib
import re
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")
_KILLS: Final = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def oom_kills(root: Path = _ROOT, membership: Path = Path("/proc/self/cgroup")) -> int:
    """How many processes of the cgroup were killed so far because it, or the machine, ran out of memory.

    0 where the kernel does not say.
    """
    for file in _files(root, membership):
        with contextlib.suppress(OSError):
            if match := _KILLS.search(file.read_text()):
                return int(match[1])
    return 0


def _files(root: Path, membership: Path) -> list[Path]:
    """Where the count may stand: cgroup v2, then v1; in a container the own cgroup is shown as the root."""
    files = []
    with contextlib.suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                files.append(root / path.lstrip("/") / "memory.events")
            elif "memory" in controllers.split(","):
                files.append(root / "memory" / path.lstrip("/") / "memory.oom_control")
    return [*files, root / "memory.events", root / "memory" / "memory.oom_control"]
