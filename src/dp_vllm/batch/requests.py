"""Reads a file of requests line by line, so that a large one takes no memory, and says what is wrong with a line."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import xxhash

from dp_vllm.engine.routes import Reach, route_of
from dp_vllm.errors import UserError

TOLD_MOST: Final = 10
"""Of so many lines it is said what is wrong with them."""


class _Line(msgspec.Struct, frozen=True):
    custom_id: str
    url: str
    body: dict[str, Any]
    method: str = "POST"


class _Shape(msgspec.Struct, frozen=True):
    """What is needed to send a line that was checked before; the body stays as it was written."""

    custom_id: str
    url: str
    body: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Request:
    """One line."""

    custom_id: str
    path: str
    body: bytes


def key(custom_id: str) -> int:
    """What is remembered of an id: 128 bits, whatever its length."""
    return xxhash.xxh3_128_intdigest(custom_id.encode(errors="surrogatepass"))


def check(path: Path) -> dict[int, int]:
    """The keys of all ids, with their lines. Raises UserError if anything in the file cannot be sent."""
    lines: dict[int, int] = {}
    problems: list[str] = []
    wrong = 0
    for number, text in _lines(path):
        problem = _problem(text, number, lines)
        if problem:
            wrong += 1
            if len(problems) < TOLD_MOST:
                problems.append(f"line {number}: {problem}")
    if wrong:
        more = f"\n  and {wrong - len(problems)} more" if wrong > len(problems) else ""
        told = "".join(f"\n  {problem}" for problem in problems)
        raise UserError(
            f"{path}: {wrong} {'line' if wrong == 1 else 'lines'} cannot be sent, so nothing was{told}{more}"
        )
    if not lines:
        raise UserError(f"{path} holds no requests; a line is {_EXAMPLE}")
    return lines


_EXAMPLE: Final = '{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [...]}}'


def read(path: Path) -> Iterator[Request]:
    """The requests of a file that was checked. Raises UserError if it is not what it was then."""
    for number, text in _lines(path):
        try:
            line = msgspec.json.decode(text, type=_Shape)
        except msgspec.DecodeError as error:
            raise UserError(f"{path}: line {number} changed while the batch ran: {error}") from error
        yield Request(line.custom_id, line.url, bytes(line.body))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, 1):
                if stripped := text.strip():
                    yield number, stripped
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _problem(text: bytes, number: int, lines: dict[int, int]) -> str:
    """What is wrong with a line; empty if nothing is, and its id is then among `lines`."""
    try:
        line = msgspec.json.decode(text, type=_Line)
    except msgspec.ValidationError as error:
        return str(error)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"it is not JSON: {error}"
    wrong = _not_sent(line)
    first = lines.setdefault(key(line.custom_id), number)
    if first != number:
        return f"custom_id {line.custom_id!r} is that of line {first} too"
    return wrong


def _not_sent(line: _Line) -> str:
    if not line.custom_id:
        return "custom_id is empty"
    if line.method != "POST":
        return f"method {line.method!r} is not POST"
    route = route_of("POST", line.url)
    if not route.path:
        return f"url {line.url!r} is none that engines answer, like /v1/chat/completions"
    if not route.json_body:
        return f"url {line.url!r} takes no JSON, or changes the engines; send it by itself"
    if route.reach is not Reach.ONE:
        return f"url {line.url!r} does not go to a single replica"
    if line.body.get("stream"):
        return "stream is set, and an answer in a file is whole: leave it out"
    return ""
