"""Starts programs of this project within moments: `python -I zygote.py MODULE` imports it once, then forks.

Importing is most of what a short program costs, and tests start hundreds. A line of JSON on standard input says `argv`,
`env`, `cwd` and `log`; the answer is the process id of a new `python -I -m MODULE`, in a session of its own. A line
with `ended` asks for the exit status of one that has ended, as `os.waitpid` gives it. It
and all that it started end with its input, which lasts as long as who asks.
"""

import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import signal
import sys
from typing import Any


def next_program() -> dict[str, Any] | None:
    """What this process is to become: in each child once; None in the zygote, when nobody can ask any more."""
    running: set[int] = set()
    for line in sys.stdin:
        told = json.loads(line)
        if "ended" in told:
            answer = os.waitpid(told["ended"], 0)[1]
            running.discard(told["ended"])
        elif answer := os.fork():
            running.add(answer)
        else:
            return dict(told)
        print(answer, flush=True)
    for each in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(each, signal.SIGKILL)
    return None


def become(told: dict[str, Any], module: str) -> None:
    """Be as a new process is; the module runs as `__main__`."""
    os.setsid()
    os.chdir(told["cwd"])
    log = os.open(told["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for file, number in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(file, number)
    os.closerange(3, max(log, nothing) + 1)
    os.environ.clear()
    os.environ.update(told["env"])
    random.seed()
    gc.unfreeze()
    sys.argv[1:] = told["argv"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    module = sys.argv[1]
    importlib.import_module(f"{module}.__main__")
    del sys.modules[f"{module}.__main__"]  # else running it warns that it was there already
    gc.freeze()  # a collection in a child writes to no page that it shares
    if told := next_program():
        become(told, module)
