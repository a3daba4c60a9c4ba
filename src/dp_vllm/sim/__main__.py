"""`python -I -m dp_vllm.sim MODEL [flags]`: one simulated engine, from its command line to its exit status."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from collections.abc import Sequence

from dp_vllm.errors import DpVllmError
from dp_vllm.sim import help_text, listen, options, program
from dp_vllm.sim.app import FINGERPRINT, VLLM_VERSION
from dp_vllm.sim.control import leave_orphan

_log = logging.getLogger("dp_vllm.sim")


def main(argv: Sequence[str]) -> int:
    """Serve until a signal ends it; the exit status."""
    if {"-h", "--help"} & set(argv):
        print(help_text.text())  # noqa: T201
        return 0
    if os.environ.get("PYTHONFAULTHANDLER"):
        faulthandler.enable()  # as any Python does, but one in isolated mode
    logging.basicConfig(format="%(levelname)s %(asctime)s %(message)s", datefmt="%m-%d %H:%M:%S", stream=sys.stdout)
    logging.getLogger("dp_vllm.sim").setLevel(logging.INFO)
    try:
        given = options.parse(argv, os.environ)
        if any(fault.kind == "orphan" for fault in given.faults):
            leave_orphan()  # before there is a socket that it would keep
        listener = listen.bind(given.listen)
    except DpVllmError as error:
        print(f"dp-vllm sim: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_status
    _log.info("%s: vLLM %s is simulated, no model is run", FINGERPRINT, VLLM_VERSION)
    return program.run(given, listener)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
