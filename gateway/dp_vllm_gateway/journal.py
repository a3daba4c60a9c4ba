"""One line for each request, on standard error. What the line says is `request_line`'s.

Lines are gathered and written every 100 ms, and only as much as standard error takes at once: a reader that stalls
costs lines, never the requests' time.
"""

import asyncio
import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from dp_vllm_gateway.call import Call

FLUSH_SECONDS: Final = 0.1

AGAIN_SECONDS: Final = 0.005
"""Until the next try if standard error did not take all: a pipe holds 64 kB, and much may be waiting for it."""

MOST_WAITING: Final = 20_000
"""Lines that wait for a reader; about 5 MB."""

LAST_SECONDS: Final = 1.0
"""How long a reader may take for the last lines at the end."""

QUIET_PATHS: Final = frozenset({"/health", "/ping", "/ready", "/metrics"})
"""Asked every few seconds by machines; not worth a line as long as the answer is good."""

log = logging.getLogger(__name__)


class Journal:
    """Owns the lines that are not written yet. To be made within a running event loop."""

    def __init__(self, line_of: Callable[[Call, int], bytes], fd: int = 2, most: int = MOST_WAITING) -> None:
        self._line_of = line_of
        self._fd = fd
        self._most = most
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._lines: deque[bytes] = deque()
        self._lost = 0

    def record(self, call: Call) -> None:
        """Note a request that has ended."""
        if call.path in QUIET_PATHS and call.status < 400:
            return
        if len(self._lines) >= self._most:
            self._lost += 1
            return
        self._lines.append(self._line_of(call, time.time_ns() // 1_000_000))
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self._flush)

    def close(self) -> None:
        """Write what is left, as long as somebody reads it."""
        if self._timer is not None:
            self._timer.cancel()
        end = time.monotonic() + LAST_SECONDS
        while self._lines and (left := end - time.monotonic()) > 0:
            self._write(left)

    def _flush(self) -> None:
        self._write(0.0)
        self._timer = self._loop.call_later(AGAIN_SECONDS, self._flush) if self._lines else None
        if self._lost and not self._lines:
            log.warning("%d requests have no line: nobody read the log in time", self._lost)
            self._lost = 0

    def _write(self, wait_seconds: float) -> None:
        """Write while it takes no longer than `wait_seconds`: a pipe that is ready takes `PIPE_BUF` bytes at once."""
        while self._lines and self._poll.poll(wait_seconds * 1000):
            piece = self._piece()
            try:
                written = os.write(self._fd, piece)
            except BlockingIOError:
                written = 0
            except OSError:  # nobody will ever read it
                self._lines.clear()
                return
            if written < len(piece):
                self._lines.appendleft(piece[written:])
                return

    def _piece(self) -> bytes:
        """As many lines as fit, one at least."""
        lines = [self._lines.popleft()]
        size = len(lines[0])
        while self._lines and (size := size + len(self._lines[0])) <= select.PIPE_BUF:
            lines.append(self._lines.popleft())
        return b"".join(lines)
