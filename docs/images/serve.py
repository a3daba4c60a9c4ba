"""Draws `serve.svg`, the picture of the README, from a real run: python docs/images/serve.py

Starts `dp-vllm serve` with four simulated engines, asks it a question, ends it, and draws what the terminal showed.
"""

import pty
import re
import select
import subprocess
import sys
import time
import urllib.error
import urllib.request
from os import close, read
from pathlib import Path
from signal import SIGINT
from typing import Final

from rich.console import Console
from rich.text import Text

COLUMNS: Final = 132
URL: Final = "http://127.0.0.1:8000"
SHOWN: Final = re.compile(
    r"dp-vllm (\d| )|endpoint|logs  |curl|-d '|Ctrl-C|ready|Application startup complete|gateway|stop"
)
"""What a reader looks at; engines say more."""

FRAME: Final = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, monospace; font-size: {char_height}px;
  line-height: {line_height}px; white-space: pre; }}
{styles}
</style>
<defs>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})"><g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""
"""rich's own frame fetches a font from elsewhere; this one takes the reader's."""


def transcript() -> str:
    """What a terminal shows of a run, with its colours."""
    ours, theirs = pty.openpty()
    argv = [str(Path(sys.executable).with_name("dp-vllm")), "serve", "demo/model", "--engine", "sim", "-dp", "4"]
    argv += ["--host", "127.0.0.1"]
    with subprocess.Popen(argv, stdout=theirs, stderr=theirs, start_new_session=True) as run:
        close(theirs)
        shown = _until(ours, b"ready: 4 of 4")
        for _ in range(3):
            _ask()
        shown += _until(ours, b"total=", times=3)
        run.send_signal(SIGINT)
        shown += _until(ours, b"stopped")
    return shown.decode(errors="replace").replace("\r", "").replace(str(Path.home()), "~")


def _until(terminal: int, said: bytes, times: int = 1) -> bytes:
    shown = b""
    end = time.monotonic() + 60
    while shown.count(said) < times and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            shown += read(terminal, 65536)
    return shown


def _ask() -> None:
    body = b'{"model": "demo/model", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}'
    request = urllib.request.Request(URL + "/v1/chat/completions", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request).read()


def main() -> None:
    console = Console(record=True, width=COLUMNS, force_terminal=True, file=open("/dev/null", "w"))
    for line in transcript().splitlines():
        text = Text.from_ansi(line)
        if not text.plain.strip() or SHOWN.search(text.plain):
            text.truncate(COLUMNS, overflow="ellipsis")
            console.print(text)
    picture = console.export_svg(title="dp-vllm serve demo/model --engine sim -dp 4", code_format=FRAME)
    Path(__file__).with_name("serve.svg").write_text(picture)


if __name__ == "__main__":
    main()
