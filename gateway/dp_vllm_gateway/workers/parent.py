"""Starts the workers of a gateway and keeps them running, on sockets that stay open while they come and go.

Workers are forked: the parent has imported everything and has no threads and no event loop. So one that died is
replaced within milliseconds, and they share the memory of all code. With the parent they end, however it ends.
"""

import contextlib
import ctypes
import logging
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NoReturn

from dp_vllm_gateway import listeners
from dp_vllm_gateway.config import GatewayConfig
from dp_vllm_gateway.listeners import Listeners
from dp_vllm_gateway.workers import news
from dp_vllm_gateway.workers.place import Place

Serve = Callable[[GatewayConfig, Place], int]
"""Serves at a place until it is told to end, and returns the exit status."""

EARLY_SECONDS: Final = 10.0
"""A worker that does not live so long died early."""

FIRST_DELAY_SECONDS: Final = 0.1
MOST_DELAY_SECONDS: Final = 10.0

GIVE_UP_AFTER: Final = 8
"""Early deaths in a row, of every worker: then whoever started the gateway is to hear of it."""

_PR_SET_PDEATHSIG: Final = 1

log = logging.getLogger(__name__)


def delay_seconds(early_deaths: int) -> float:
    """How long a place stays empty after so many early deaths in a row: not at all at first, then ever longer."""
    if early_deaths < 2:
        return 0.0
    return min(FIRST_DELAY_SECONDS * 2.0 ** (early_deaths - 2), MOST_DELAY_SECONDS)


def run(config: GatewayConfig, serve: Serve) -> int:
    """Keep `config.workers` workers running until told to end (SIGTERM, SIGINT); the exit status.

    If the first one cannot serve, its status. Raises UserError if a socket cannot be opened.
    """
    with listeners.opened(config) as doors, _woken_by_signals() as wake:
        return Parent(config, doors, serve, wake).run()


@dataclass(slots=True)
class _Life:
    """A worker that runs."""

    pid: int
    pipe: int
    """Readable when it serves, and at its end."""
    began_at: float
    serves: bool = False


@dataclass(slots=True)
class _Slot:
    """A worker's place, empty or not."""

    number: int
    inbox: socket.socket
    outbox: socket.socket
    """What is sent here arrives in the inbox."""
    life: _Life | None = None
    early_deaths: int = 0
    start_at: float = 0.0
    """Not before this time of the monotonic clock."""


class Parent:
    """Owns the workers."""

    def __init__(self, config: GatewayConfig, doors: Listeners, serve: Serve, wake: int) -> None:
        self._config = config
        self._doors = doors
        self._serve = serve
        self._wake = wake
        """Readable when a signal came; the byte is its number."""
        self._slots = [_Slot(number, *_pair()) for number in range(config.workers)]
        self._some_served = False
        self._ending = False
        self._status = 0

    def run(self) -> int:
        """The exit status, once no worker is left."""
        while not (self._ending and not self._lives()):
            if not self._ending:
                self._start_due(time.monotonic())
            self._wait()
        return self._status

    def _lives(self) -> list[tuple[_Slot, _Life]]:
        return [(slot, slot.life) for slot in self._slots if slot.life is not None]

    def _start_due(self, now: float) -> None:
        """The first worker goes ahead: what keeps it from serving would keep all, and is to be said once."""
        for slot in self._slots if self._some_served else self._slots[:1]:
            if slot.life is None and slot.start_at <= now:
                slot.life = self._start(slot, now)

    def _start(self, slot: _Slot, now: float) -> _Life:
        read, write = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            self._become(slot, write, parent)
        os.close(write)
        return _Life(pid, read, now)

    def _become(self, slot: _Slot, pipe: int, parent: int) -> NoReturn:
        status = 1
        try:
            _end_with(parent)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the parent passes it on as SIGTERM
            others = {each.number: each.outbox for each in self._slots if each is not slot}
            status = self._serve(self._config, Place(slot.number, slot.inbox, others, self._doors, pipe))
        except BaseException:  # whatever it is: this process must not go on as a second parent
            traceback.print_exc()
        finally:
            os._exit(status)

    # what happens

    def _wait(self) -> None:
        """Wait until something has happened, and take it in."""
        pipes = {life.pipe: (slot, life) for slot, life in self._lives()}
        empty = [] if self._ending or not self._some_served else [slot for slot in self._slots if slot.life is None]
        timeout = min((max(0.0, slot.start_at - time.monotonic()) for slot in empty), default=None)
        poll = select.poll()
        for fd in (self._wake, *pipes):
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(None if timeout is None else timeout * 1000 + 1):
            if fd == self._wake:
                self._obey(os.read(fd, 64))
            elif os.read(fd, 64):
                life = pipes[fd][1]
                life.serves = self._some_served = True
            else:
                self._bury(*pipes[fd])

    def _bury(self, slot: _Slot, life: _Life) -> None:
        os.close(life.pipe)
        status = os.waitstatus_to_exitcode(os.waitpid(life.pid, 0)[1])
        slot.life = None
        if self._ending:
            self._status = self._status or max(0, status)
            return
        now = time.monotonic()
        early = not life.serves or now - life.began_at < EARLY_SECONDS
        slot.early_deaths = slot.early_deaths + 1 if early else 0
        slot.start_at = now + delay_seconds(slot.early_deaths)
        self._tell_death(slot)
        if not self._some_served or all(each.early_deaths >= GIVE_UP_AFTER for each in self._slots):
            self._status = status if status > 0 else 1
            self._end()
        if self._some_served or status < 0:  # else it has said why itself
            log.warning("worker %d (process %d) ended with status %d", slot.number, life.pid, status)

    def _tell_death(self, dead: _Slot) -> None:
        data = news.datagram(news.PARENT, None, news.written(news.Died(dead.number)))
        for slot, _ in self._lives():
            with contextlib.suppress(OSError):  # no room: they will see that it is silent
                slot.outbox.send(data)

    def _obey(self, signals: bytes) -> None:
        if not self._ending and any(number in _ENDING for number in signals):
            self._end()
        elif any(number in _ENDING for number in signals):
            self._signal_all()

    def _end(self) -> None:
        self._ending = True
        self._doors.close()  # nobody is to wait for workers that end
        self._signal_all()

    def _signal_all(self) -> None:
        for _, life in self._lives():
            os.kill(life.pid, signal.SIGTERM)  # not waited for yet, so the number is still its own


_ENDING: Final = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def _woken_by_signals() -> Iterator[int]:
    """What becomes readable when one comes that ends the gateway."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    former = [(number, signal.signal(number, lambda *_: None)) for number in _ENDING]
    signal.set_wakeup_fd(write)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in former:
            signal.signal(number, handler)
        os.close(read)
        os.close(write)


def _pair() -> tuple[socket.socket, socket.socket]:
    """Unix sockets without a name: nobody else can send to them, and nothing of them stays behind."""
    inbox, outbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    inbox.setblocking(False)
    outbox.setblocking(False)
    return inbox, outbox


def _end_with(parent: int) -> None:
    """Be killed when the parent ends, and at once if it has ended already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
