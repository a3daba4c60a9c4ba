"""Messages between gateway processes that could not be written, read or applied."""

import logging
from typing import Final

LONGEST: Final = 200
"""Characters of an error that are logged."""

log = logging.getLogger(__name__)


class MessageErrors:
    """Counts them, and logs the first of each kind: a faulty process sends many, and none of them ends this one."""

    def __init__(self) -> None:
        self.count = 0
        self._logged: set[tuple[str, type[Exception]]] = set()

    def add(self, what: str, error: Exception) -> None:
        """A message was dropped. `what` names one of few things that were done with it: "written"."""
        self.count += 1
        kind = what, type(error)
        if kind not in self._logged:
            self._logged.add(kind)
            problem = f"{type(error).__name__}: {error}"[:LONGEST]
            log.warning("a message between gateway processes could not be %s and is dropped: %s", what, problem)
