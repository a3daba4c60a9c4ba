"""What a person sees: lines under the name of who wrote them, colours where they belong; and no one waits for it."""

import os
import threading
from pathlib import Path

from programs import wait_until

from dp_vllm.local.terminal import Terminal, wants_colours


def test_lines_carry_the_name_of_their_log(tmp_path: Path) -> None:
    gateway, engine, shown = tmp_path / "gateway.log", tmp_path / "engine.log", tmp_path / "shown"
    with shown.open("wb") as file, Terminal(fd=file.fileno(), colours=False) as terminal:
        terminal.follow("gateway", gateway)
        terminal.follow("replica 0", engine)
        gateway.write_text("listening\n")
        engine.write_text("\x1b[31mloading\x1b[0m\n")
        wait_until(lambda: shown.read_text().count("\n") == 2, "both lines are shown")
        terminal.say("ready: 1 of 1")
    lines = shown.read_text().splitlines()
    assert sorted(lines) == ["dp-vllm   | ready: 1 of 1", "gateway   | listening", "replica 0 | loading"]


def test_each_log_has_a_colour_of_its_own(tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    logs = {name: tmp_path / name for name in ("replica 0", "replica 1")}
    with shown.open("wb") as file, Terminal(fd=file.fileno(), colours=True) as terminal:
        for name, path in logs.items():
            terminal.follow(name, path)
            path.write_text("hello\n")
    assert shown.read_text() == ("\x1b[36mreplica 0 | \x1b[0mhello\x1b[0m\n\x1b[33mreplica 1 | \x1b[0mhello\x1b[0m\n")


def test_nobody_waits_for_a_terminal_that_stands_still() -> None:
    read, write = os.pipe()
    with Terminal(fd=write, colours=False) as terminal:
        for _ in range(1000):
            terminal.say("x" * 1000)  # far more than the pipe holds, and nobody reads it
    os.close(read)
    wait_until(lambda: all(thread.name != "terminal" for thread in threading.enumerate()), "the thread gives up")
    os.close(write)


def test_a_terminal_that_is_gone_harms_nothing() -> None:
    read, write = os.pipe()
    os.close(read)
    with Terminal(fd=write, colours=False) as terminal:
        terminal.say("hello")
    os.close(write)


def test_colours_are_for_terminals_and_can_be_switched_off() -> None:
    assert wants_colours({}, is_terminal=True)
    assert wants_colours({"NO_COLOR": ""}, is_terminal=True)
    assert not wants_colours({}, is_terminal=False)
    assert not wants_colours({"NO_COLOR": "1"}, is_terminal=True)
    assert not wants_colours({"TERM": "dumb"}, is_terminal=True)
