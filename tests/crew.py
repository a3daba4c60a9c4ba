"""A gateway of several workers, of which a test can let one alone serve."""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import programs
import scripted
import watched
from scripted import Engine


@dataclass(frozen=True, slots=True)
class Crew(watched.Gateway):
    """A gateway of two workers."""

    def workers(self) -> list[int]:
        """The process ids, in the order in which they were started."""
        return children(self.program.pid)

    def wait_until_all_know(self) -> None:
        """Once a scrape was answered by both, each has heard what the other had to tell before."""
        programs.wait_until(lambda: self.scrape().value("dp_vllm_workers") == 2, "both workers answer")

    @contextlib.contextmanager
    def only(self, worker: int) -> Iterator[None]:
        """Whatever is asked meanwhile is answered by this worker, which knows what the others know."""
        self.wait_until_all_know()
        others = [pid for pid in self.workers() if pid != worker]
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        programs.wait_until(lambda: all(state(pid) == "T" for pid in others), "they stand still")
        try:
            yield
        finally:
            for pid in others:
                with contextlib.suppress(ProcessLookupError):  # the test has killed it
                    os.kill(pid, signal.SIGCONT)


def children(pid: int) -> list[int]:
    """A process's own children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def state(pid: int) -> str:
    """As the kernel says: T is a stopped process; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


@contextlib.contextmanager
def crew(directory: Path, *engines: Engine, flags: tuple[str, ...] = ()) -> Iterator[Crew]:
    """A gateway of two workers before these engines. If it runs when the block ends, nothing is in flight."""
    socket = directory / "admin.sock"
    words = ("--admin-socket", str(socket), "--gateway-workers", "2", *flags)
    with scripted.gateway(directory, engines, *words) as program:
        running = Crew(program, f"unix:{socket}")
        running.wait_until_all_know()
        yield running
        if program.process.poll() is None:
            running.wait_until_idle()
