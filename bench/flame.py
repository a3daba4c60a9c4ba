"""Where a Python gateway spends its time: py-spy beside a scenario, and the functions that it saw most."""

import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import install, results

FORMATS = {".svg": "flamegraph", ".json": "speedscope", ".txt": "raw"}
"""By the file's ending; `raw` is one line per stack, of which a table can be made."""


@contextmanager
def recording(pid: int, output: Path, seconds: float, *, native: bool) -> Iterator[None]:
    """Sample the process for `seconds` from now on; leave the block once the file is written."""
    argv = [str(install.python("py-spy").path), "record", "--pid", str(pid), "--duration", str(round(seconds))]
    argv += ["--rate", "400", "--format", FORMATS[output.suffix], "--output", str(output)]
    argv += ["--native"] if native else []
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as spy:
        yield
        _, said = spy.communicate(timeout=60 + seconds)
    if spy.returncode:
        raise install.Missing(f"py-spy failed: {said.strip()[-300:]}")


def busiest(stacks: str, count: int = 40) -> str:
    """A table of the functions that were seen most, from py-spy's raw output: alone, and with what they call."""
    alone: Counter[str] = Counter()
    along: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, samples = line.rpartition(" ")
        functions = [_function(frame) for frame in frames.split(";")]
        alone[functions[-1]] += int(samples)
        for function in set(functions):
            along[function] += int(samples)
    whole = sum(alone.values()) or 1
    lines = [[name, f"{seen / whole:.1%}", f"{along[name] / whole:.1%}"] for name, seen in alone.most_common(count)]
    return results.columns([["function", "itself", "with callees"], *lines])


def _function(frame: str) -> str:
    """`handle (dp_vllm_gateway/app.py:57)` without the line, so that a function is one row."""
    name, _, where = frame.partition(" (")
    return f"{name} {where.rpartition(':')[0] or where.rstrip(')')}" if where else name
