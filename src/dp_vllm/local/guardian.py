"""The process between the supervisor and one program: whatever happens to the supervisor, nothing of it stays behind.

It is the program's parent and the subreaper of all that comes from it, so that no descendant can slip away by leaving
the session or by outliving its parent. It lives as long as they do: when its standard output ends, none is left.

It is run as a script of its own (`python -I -S guardian.py NAME`, the name being for `ps` alone) and imports next to
nothing, because one stands beside every engine. It knows nothing of engines, and the package's other modules nothing of
how it works but the lines it speaks, each a JSON object:

    in   {"argv": [...], "env": {...}, "cwd": "/", "log": 4, "fds": [3]}   what to run; `log` gets its output, `fds`
                                    stay open in it alone
         {"signal": 15}             send this signal to the program
         {"kill": true}             kill the program and everything that came from it
         end of file                the same: the supervisor is gone, or wants no more of it
    out  {"started": 4242, "ticks": 816}    the program's pid, and its start time as in /proc/PID/stat
         {"failed": "..."}          it could not be started
         {"code": 1} {"signal": 9}  it ended; its descendants now have `GRACE_SECONDS` to end by themselves
         end of file                nothing of it is left
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import time

TYPE_CHECKING = False  # of `typing`, which would cost every guardian a megabyte
if TYPE_CHECKING:
    from typing import NoReturn, TypedDict

    class Program(TypedDict):
        argv: list[str]
        env: dict[str, str]
        cwd: str
        log: int
        fds: list[int]


GRACE_SECONDS = 2.0
"""How long descendants may outlive the program: an engine's helpers clean up after it when they see it gone."""

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_DEFAULT_IN_PROGRAM = (*_IGNORED, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _say(**message: object) -> None:
    try:
        os.write(1, json.dumps(message).encode() + b"\n")
    except OSError:
        return  # nobody listens any more; end of file on the input says so too


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the third on (the second may contain anything)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def _descendants() -> list[int]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                children.setdefault(int(_stat(int(name))[1]), []).append(int(name))
            except OSError:
                continue
    found = children.get(os.getpid(), [])
    for pid in found:  # grows while it is walked
        found.extend(children.get(pid, []))
    return found


class Guardian:
    """The loop from the program's start to the end of its last descendant."""

    def __init__(self, program: int, wake: int) -> None:
        self._program = program
        self._wake = wake
        """Becomes readable when a child ended."""
        self._input = b""
        self._kill_at: float | None = None
        """When everything is to be killed; None while the program runs."""

    def run(self) -> None:
        while self._reap():
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._kill_all()
                return
            self._wait()

    def _reap(self) -> bool:
        """Bury who ended. False once no child is left, and with it no descendant."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._program:
                _say(**{"signal" if os.WIFSIGNALED(status) else "code": abs(os.waitstatus_to_exitcode(status))})
                if self._kill_at is None:
                    self._kill_at = time.monotonic() + GRACE_SECONDS
                self._program = 0

    def _wait(self) -> None:
        timeout = None if self._kill_at is None else max(0.0, self._kill_at - time.monotonic())
        readable = select.select([0, self._wake], [], [], timeout)[0]
        if self._wake in readable:
            os.read(self._wake, 4096)
        if 0 in readable:
            data = os.read(0, 65536)
            if not data:
                self._kill_at = 0.0
            *lines, self._input = (self._input + data).split(b"\n")
            for line in lines:
                self._obey(json.loads(line))

    def _obey(self, order: dict[str, int]) -> None:
        if "kill" in order:
            self._kill_at = 0.0
        elif self._program:
            os.kill(self._program, order["signal"])  # not yet reaped, so the pid is still its own

    def _kill_all(self) -> None:
        pause = 0.002
        while self._reap():
            for pid in _descendants():
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    continue
            time.sleep(pause)
            pause = min(pause * 2, 0.1)  # one that sleeps in the kernel takes its time


def _read_program() -> Program | None:
    data = b""
    while not data.endswith(b"\n"):
        more = os.read(0, 1 << 20)
        if not more:
            return None
        data += more
    program: Program = json.loads(data)
    return program


def _become(program: Program, guardian: int) -> NoReturn:
    """In the forked child: turn into the program. Raises OSError."""
    os.setsid()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guardian:
        os._exit(1)
    for number in _DEFAULT_IN_PROGRAM:
        signal.signal(number, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    os.chdir(program["cwd"])
    os.execvpe(program["argv"][0], program["argv"], program["env"])  # noqa: S606 - no shell is the point


def start(program: Program) -> int:
    """Start the program in a session of its own, its output appended to its log. Raises OSError."""
    os.dup2(program["log"], 2)
    os.close(program["log"])
    guardian = os.getpid()
    read, write = os.pipe()  # closed by a successful exec
    pid = os.fork()
    if pid == 0:
        try:
            _become(program, guardian)
        except OSError as error:
            os.write(write, f"{program['argv'][0]}: {error.strerror}".encode())
        finally:
            os._exit(127)
    os.close(write)
    with open(read, encoding="utf-8", errors="replace") as pipe:
        problem = pipe.read()
    for fd in program["fds"]:
        os.close(fd)
    if problem:
        os.waitpid(pid, 0)
        raise OSError(problem)
    return pid


def main() -> None:
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    program = _read_program()
    if program is None:
        return
    try:
        pid = start(program)
    except OSError as error:
        _say(failed=str(error))
        return
    _say(started=pid, ticks=int(_stat(pid)[19]))
    Guardian(pid, wake).run()


if __name__ == "__main__":
    main()
