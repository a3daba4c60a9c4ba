"""A guarded program: what it gets, what it does, how it ended, and that nothing of it stays behind."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from programs import wait_until

from dp_vllm.local import pids
from dp_vllm.local.process import Exit, Program, running

LEAVES_A_STUBBORN_CHILD = """
import os, signal, subprocess, sys, time
code = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid()); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-uc", code], start_new_session=True)
"""
"""Starts a descendant that left the session, ignores SIGTERM, and prints its pid."""


def script(tmp_path: Path, code: str, *, fds: tuple[int, ...] = (), **environment: str) -> Program:
    return Program("test", (sys.executable, "-u", "-c", code), {**os.environ, **environment}, tmp_path / "log", fds)


def log_of(program: Program) -> str:
    return program.log.read_text() if program.log.exists() else ""


async def printed(program: Program, lines: int = 1) -> list[str]:
    """The first lines that the program printed."""
    await asyncio.to_thread(wait_until, lambda: log_of(program).count("\n") >= lines, "the program says something")
    return log_of(program).splitlines()


def alive(pid: int) -> bool:
    try:
        return pids.identify(pid).alive
    except ProcessLookupError:
        return False


@pytest.mark.parametrize(
    ("code", "expected", "words"),
    [
        pytest.param("pass", Exit(code=0), "exit status 0", id="success"),
        pytest.param("raise SystemExit(3)", Exit(code=3), "exit status 3", id="failure"),
        pytest.param("import os; os.kill(os.getpid(), 9)", Exit(signal=9), "killed by SIGKILL", id="killed"),
        pytest.param("import os; os.kill(os.getpid(), 40)", Exit(signal=40), "killed by signal 40", id="no name"),
    ],
)
async def test_its_end_is_reported(tmp_path: Path, code: str, expected: Exit, words: str) -> None:
    async with running(script(tmp_path, code)) as program:
        assert await program.exit() == expected
    assert str(expected) == words


async def test_output_is_appended_to_the_log_and_nothing_can_be_read(tmp_path: Path) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); print(repr(sys.stdin.read()))"
    what = script(tmp_path, code)
    what.log.write_text("before\n")
    async with running(what) as program:
        await program.exit()
    assert log_of(what) == "before\nout\nerr\n''\n"


async def test_it_gets_exactly_the_given_environment_and_signals_as_they_are_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "token")
    code = "import os, signal; print(os.environ['ODD'], os.environ.get('PATH')); print(signal.getsignal(15))"
    what = Program("test", (sys.executable, "-uc", code), {"ODD": "\udcff é"}, tmp_path / "log")
    async with running(what) as program:
        of_guardian = Path(f"/proc/{program.guardian.pid}/environ").read_bytes()
        await program.exit()
    assert b"HF_TOKEN" not in of_guardian
    assert what.log.read_bytes() == b"\xff \xc3\xa9 None\n0\n"


async def test_what_cannot_be_started_is_named(tmp_path: Path) -> None:
    what = Program("test", ("no-such-program", "x"), {"PATH": "/usr/bin"}, tmp_path / "log")
    with pytest.raises(OSError, match="no-such-program: No such file or directory"):
        async with running(what):
            pass


async def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    what = Program("test", ("true",), {}, tmp_path / "missing" / "log")
    with pytest.raises(OSError, match="missing/log"):
        async with running(what):
            pass


async def test_an_inherited_socket_serves_in_the_program_and_is_not_kept_by_its_guardian(tmp_path: Path) -> None:
    code = """
import socket, sys
listener = socket.socket(fileno=int(sys.argv[1]))
connection, _ = listener.accept()
connection.sendall(b"hello"); connection.close()
"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        what = script(tmp_path, code, fds=(listener.fileno(),))
        what = Program(what.name, (*what.argv, str(listener.fileno())), what.environment, what.log, what.fds)
        async with running(what) as program:
            held = {os.readlink(fd) for fd in Path(f"/proc/{program.guardian.pid}/fd").iterdir()}
            assert os.readlink(f"/proc/self/fd/{listener.fileno()}") not in held
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            assert await reader.read() == b"hello"
            writer.close()
            assert await program.exit() == Exit(code=0)


async def test_a_signal_reaches_the_program_alone(tmp_path: Path) -> None:
    what = script(tmp_path, LEAVES_A_STUBBORN_CHILD + "time.sleep(600)")
    async with running(what) as program:
        child = int((await printed(what))[0])
        program.signal(signal.SIGTERM)
        assert await program.exit() == Exit(signal=signal.SIGTERM)
        assert alive(child)
    assert not alive(child)


async def test_a_program_that_ignores_sigterm_can_be_killed(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, lambda *_: print('no')); print('up'); [time.sleep(9) for _ in 'xx']"
    what = script(tmp_path, code)
    async with running(what) as program:
        await printed(what)
        program.signal(signal.SIGTERM)
        assert (await printed(what, 2))[1] == "no"
        program.kill()
        assert await program.exit() == Exit(signal=signal.SIGKILL)


async def test_descendants_may_clean_up_when_the_program_has_ended(tmp_path: Path) -> None:
    code = """
import os
read, write = os.pipe()
if os.fork() == 0:
    os.setsid(); os.close(write); os.read(read, 1)  # returns when the program is gone
    print("cleaned up")
"""
    what = script(tmp_path, code)
    async with running(what) as program:
        await program.exit()
    assert log_of(what) == "cleaned up\n"


async def test_leaving_the_block_kills_everything(tmp_path: Path) -> None:
    what = script(tmp_path, LEAVES_A_STUBBORN_CHILD + "time.sleep(600)")
    async with running(what) as program:
        child = int((await printed(what))[0])
        assert program.program.alive and alive(child)
    assert not program.program.alive and not alive(child)


async def test_a_program_is_ended_with_its_guardian(tmp_path: Path) -> None:
    code = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '600']).pid); time.sleep(600)"
    what = script(tmp_path, code)
    async with running(what) as program:
        child = int((await printed(what))[0])
        os.kill(program.guardian.pid, signal.SIGKILL)
        assert await program.exit() == Exit()
    assert not program.program.alive and not alive(child)


async def test_nothing_is_left_when_the_one_who_started_it_is_killed(tmp_path: Path) -> None:
    what = script(tmp_path, LEAVES_A_STUBBORN_CHILD + "print(os.getpid()); time.sleep(600)")
    supervisor = f"""
import asyncio, pathlib
from dp_vllm.local.process import Program, running
async def main():
    async with running(Program("inner", {what.argv!r}, {dict(what.environment)!r}, pathlib.Path({str(what.log)!r}))):
        await asyncio.sleep(600)
asyncio.run(main())
"""
    outer = Program("outer", (sys.executable, "-c", supervisor), os.environ, tmp_path / "outer.log")
    process = await asyncio.create_subprocess_exec(*outer.argv)
    found = [int(line) for line in await printed(what, 2)]
    assert all(alive(pid) for pid in found)
    process.kill()
    await process.wait()
    await asyncio.to_thread(wait_until, lambda: not any(alive(pid) for pid in found), "all are gone", 5)
