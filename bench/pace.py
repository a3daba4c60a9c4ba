"""Moments finer than a millisecond, which is as fine as the event loop's own timers are: Linux's timerfd."""

import asyncio
import ctypes
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

_libc = ctypes.CDLL(None, use_errno=True)
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_ABSOLUTE = 1


class _Setting(ctypes.Structure):
    """`struct itimerspec`: a period, then the first moment, each in seconds and nanoseconds."""

    _fields_ = (("period", ctypes.c_long * 2), ("first", ctypes.c_long * 2))


class Alarm:
    """Calls `due(moment)` at each moment of `time.monotonic()` that the call before it returned.

    What was missed while the loop was busy is called at once, with the moment that it was due.
    """

    def __init__(self, due: Callable[[float], float]) -> None:
        self._due = due
        self._error: BaseException | None = None
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        self._file = _libc.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._next = time.monotonic()
        self._loop.add_reader(self._file, self._rings)
        self._set()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.remove_reader(self._file)
        os.close(self._file)

    def check(self) -> None:
        """Raise what a call raised; the alarm is silent since then."""
        if self._error is not None:
            raise self._error

    def _rings(self) -> None:
        os.read(self._file, 8)
        try:
            while self._next <= time.monotonic():
                self._next = self._due(self._next)
        except Exception as error:  # it would only be logged by the loop
            self._error = error
        else:
            self._set()

    def _set(self) -> None:
        seconds = int(self._next)
        setting = _Setting(first=(ctypes.c_long * 2)(seconds, int((self._next - seconds) * 1e9) or 1))
        _libc.timerfd_settime(self._file, _ABSOLUTE, ctypes.byref(setting), None)
