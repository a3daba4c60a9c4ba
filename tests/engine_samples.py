"""Requests and the real engine's answers to them, a line each, in `vllm/samples/*.jsonl`.

`judged` holds bodies and whether they are taken; `http` holds heads and bodies as bytes, for what the HTTP server makes
of them. The tests with the real engine record an answer that is missing.
"""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wire import Answer, line, request

SAMPLES = Path(__file__).parent / "vllm" / "samples"
_UNCOMPARED = frozenset({"content-length", "date", "server", "transfer-encoding"})
_SHOWN_BYTES = 300
_SECONDS = 60.0
"""The real engine needs long for its first constrained answer on a busy machine."""


def read(name: str) -> list[dict[str, Any]]:
    """The lines of one file."""
    return [json.loads(row) for row in (SAMPLES / f"{name}.jsonl").read_text().splitlines()]


def differences(url: str, name: str) -> list[str]:
    """Every line whose answer at `url` is another one, with both."""
    found = []
    for row in read(name):
        try:
            got: object = answer(url, row)
        except OSError as error:
            got = f"no answer: {error}"
        if got != row["answer"]:
            found.append(f"{_question(row)}\n  it was {row['answer']}\n  it is  {got}")
    return found


def record(url: str, name: str) -> int:
    """Add the answers that are missing; how many there were."""
    rows = read(name)
    missing = [row for row in rows if "answer" not in row]
    for row in missing:
        row["answer"] = answer(url, row)
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    (SAMPLES / f"{name}.jsonl").write_text(text)
    return len(missing)


def answer(url: str, row: dict[str, Any]) -> dict[str, Any]:
    """What is compared of the answer to a line's request."""
    with line(url) as opened:
        opened.socket.settimeout(_SECONDS)
        if "path" in row:
            opened.send(request("POST", row["path"], row["body"].encode("utf-8", "surrogatepass")))
            got = opened.answer()
            return {"status": got.status, "body": None if got.status == 200 else got.json()}
        opened.send(row["request"].encode("latin-1"))
        return _head_and_text(opened.answer(row["request"].partition(" ")[0]), url)


def _head_and_text(got: Answer, url: str) -> dict[str, Any]:
    headers = {name: value for name, value in got.headers.items() if name not in _UNCOMPARED}
    if "location" in headers:
        headers["location"] = headers["location"].replace(str(urlsplit(url).netloc), "SERVER")
    if headers.get("content-type", "").startswith("text/plain; version="):
        headers["content-type"] = "text/plain; version=..."
    text = "" if got.status == 200 else got.body.decode("utf-8", "replace")[:_SHOWN_BYTES]
    return {"status": got.status, "headers": dict(sorted(headers.items())), "text": text}


def _question(row: dict[str, Any]) -> str:
    return re.sub(r"(.{300}).*", r"\1...", f"{row['path']} {row['body']}" if "path" in row else repr(row["request"]))
