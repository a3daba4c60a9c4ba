"""How the log lines of gateways and operators look, as text or as JSON."""

import functools
import logging
import time
from typing import Any

import msgspec


class Text(logging.Formatter):
    """`TIME LEVEL MESSAGE`, and a trace below it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return time_of(int(record.created * 1000))


class Json(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": time_of(int(record.created * 1000)),
            "level": record.levelname,
            "message": _writable(record.getMessage()),
        }
        if record.exc_info:
            said["trace"] = _writable(self.formatException(record.exc_info))
        return msgspec.json.encode(said).decode()


def _writable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def set_up(*, as_json: bool) -> None:
    """Write what the program logs to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(Json() if as_json else Text())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


@functools.lru_cache(maxsize=4)
def time_of(now: int) -> str:
    """Milliseconds of the wall clock as ISO 8601 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1000)) + f".{now % 1000:03d}Z"
