"""The routes of the Hugging Face hub that a download uses, with faults on demand: `python hub.py PORT DIRECTORY`.

`DIRECTORY/org/name/` is a model; its files may have holes, so a large one costs nothing. A fault is one object:

    curl .../fault -d '{"path": "/org/name/resolve", "status": 503, "count": 2}'

`path` is the beginning of the paths that it strikes, `count` how often (else always). It answers `status` with `code`
(the hub's `X-Error-Code`), or cuts the body after `cut_after` bytes, or sends `bytes_per_second`, or nothing (`hang`).
`DELETE /fault` ends all faults. `GET /log` lists the requests so far.
"""

import hashlib
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BRANCHES = ("main", COMMIT, "other")
HASHED_BYTES = 1_000_000
"""More of a file is not read to name its content."""
PIECE = 65_536


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(status)
        self.status, self.code = status, code


class Hub(BaseHTTPRequestHandler):
    """Answers requests."""

    protocol_version = "HTTP/1.1"
    root = Path()
    faults: list[dict[str, Any]] = []  # noqa: RUF012
    requests: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/log":
            self.send_json(self.requests)
            return
        self.requests.append(f"{self.command} {path}")
        fault = self.fault_for(path)
        try:
            if "status" in fault:
                raise Refused(fault["status"], fault.get("code", ""))
            if "hang" in fault:
                time.sleep(600)
            self.answer(path, fault)
        except Refused as refused:
            self.send_json({"error": refused.code}, refused.status, {"X-Error-Code": refused.code})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.faults.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_json({})

    def do_DELETE(self) -> None:
        self.faults.clear()
        self.send_json({})

    def answer(self, path: str, fault: dict[str, Any]) -> None:
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            folder, rest = self.model("/".join(parts[2:4])), parts[4:]
            self.check_revision(rest[1] if len(rest) > 1 else "main")
            kind = rest[0] if rest else "revision"
            self.send_json(tree(folder) if kind == "tree" else info(folder, "/".join(parts[2:4])))
        elif len(parts) > 4 and parts[2] == "resolve":
            self.check_revision(parts[3])
            self.send_file(self.model("/".join(parts[:2])) / "/".join(parts[4:]), fault)
        else:
            raise Refused(404)

    def model(self, name: str) -> Path:
        folder = self.root / name
        if not folder.is_dir():
            raise Refused(401, "RepoNotFound")  # so that nobody learns which private models there are
        return folder

    def check_revision(self, revision: str) -> None:
        if revision not in BRANCHES:
            raise Refused(404, "RevisionNotFound")

    def fault_for(self, path: str) -> dict[str, Any]:
        for fault in self.faults:
            if path.startswith(fault["path"]) and fault.get("count", 1) > 0:
                if "count" in fault:
                    fault["count"] -= 1
                return fault
        return {}

    def send_json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, path: Path, fault: dict[str, Any]) -> None:
        if not path.is_file():
            raise Refused(404, "EntryNotFound")
        size, start = path.stat().st_size, 0
        if asked := self.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(size - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("ETag", f'"{content_of(path)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command != "HEAD":
            self.send_pieces(path, start, fault)

    def send_pieces(self, path: Path, start: int, fault: dict[str, Any]) -> None:
        left = fault.get("cut_after", path.stat().st_size)
        with path.open("rb") as file:
            file.seek(start)
            while left > 0 and (piece := file.read(min(PIECE, left))):
                left -= len(piece)
                self.wfile.write(piece)
                if rate := fault.get("bytes_per_second"):
                    time.sleep(len(piece) / rate)
        if "cut_after" in fault:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def content_of(path: Path) -> str:
    """The hub's name of a file's content."""
    with path.open("rb") as file:
        return hashlib.sha256(f"{path.stat().st_size}".encode() + file.read(HASHED_BYTES)).hexdigest()


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def tree(folder: Path) -> list[dict[str, Any]]:
    """What the hub lists of a model."""
    return [
        {
            "type": "file",
            "path": str(path.relative_to(folder)),
            "size": path.stat().st_size,
            "oid": content_of(path)[:40],
            "lfs": {"oid": content_of(path), "size": path.stat().st_size, "pointerSize": 134},
        }
        for path in files(folder)
    ]


def info(folder: Path, name: str) -> dict[str, Any]:
    """What the hub says of a model."""
    siblings = [
        {
            "rfilename": str(path.relative_to(folder)),
            "size": path.stat().st_size,
            "blobId": content_of(path)[:40],
            "lfs": {"sha256": content_of(path), "size": path.stat().st_size, "pointerSize": 134},
        }
        for path in files(folder)
    ]
    return {"id": name, "modelId": name, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}


if __name__ == "__main__":
    Hub.root = Path(sys.argv[2])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Hub).serve_forever()
