"""Watches replicas until a change of them is through, and says how far it is: in one renewed line, or line by line."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.status import Status

from dp_vllm.local.operate import look
from dp_vllm.local.operate.look import Look
from dp_vllm.local.operate.steps import Progress
from dp_vllm.local.runs import Found

_POLL_SECONDS: Final = 0.2
_NUMBER: Final = re.compile(r"[\d.]+")


def through(
    found: Found, names: Sequence[str], progress: Callable[[Look, str], Progress], console: Console
) -> dict[str, str]:
    """Wait until each of the replicas is where it should be, or cannot come there; why, for those that cannot."""
    teller = _Teller(console)
    left, failed = list(names), dict[str, str]()
    with teller.status:
        while left:
            now = look.at(found)
            steps = {name: progress(now, name) for name in left}
            teller.tell(steps)
            left = [name for name, step in steps.items() if not step.done and not step.failed]
            failed |= {name: step.words for name, step in steps.items() if step.failed}
            if left:
                time.sleep(_POLL_SECONDS)
    return failed


class _Teller:
    """Says each thing once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: dict[str, str] = {}
        self.status = Status("", console=console)
        """The line that is renewed, on a terminal."""

    def tell(self, steps: Mapping[str, Progress]) -> None:
        going = {name: step for name, step in steps.items() if not step.done and not step.failed}
        for name, step in steps.items():
            if name not in going or not self._console.is_terminal:
                self._say_once(name, step.words)
        self.status.update("; ".join(f"replica {name}: {step.words}" for name, step in going.items()))

    def _say_once(self, name: str, words: str) -> None:
        """What differs in numbers alone was said."""
        pattern = _NUMBER.sub("#", words)
        if self._told.get(name) != pattern:
            self._told[name] = pattern
            self._console.print(f"replica {name}: {words}", markup=False, highlight=False, soft_wrap=True)
