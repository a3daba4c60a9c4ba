"""Starts operators quickly: a process that has imported the operator already, and becomes one with each line.

A line on standard input is a JSON object with `argv`, `env` and `log`; one on standard output is the new process' id.
Its children are operators as `python -m dp_vllm_operator` starts them, but for the second that importing takes.
"""

import json
import os
import signal
import sys
from typing import Any

import dp_vllm_operator.handlers
from dp_vllm_operator.__main__ import main


def become(told: dict[str, Any]) -> None:
    """Be an operator, from now to the end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    log = os.open(told["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for file, number in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(file, number)
    os.environ.update(told["env"])
    main(told["argv"], prog_name="dp-vllm operator")


def serve() -> None:
    """Until nobody can ask any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children: the system takes them away
    for line in sys.stdin:
        if pid := os.fork():
            print(pid, flush=True)
        else:
            become(json.loads(line))


if __name__ == "__main__":
    assert dp_vllm_operator.handlers  # with kopf
    serve()
