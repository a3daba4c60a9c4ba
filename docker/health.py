"""Docker's health check: ends with 0 if the program in this container answers 200 at the path that is given.

It asks the port that the container's program was started with, with or without TLS, past any proxy.
"""

import http.client
import ssl
import sys
from pathlib import Path

DEFAULT_PORT = 8000
TIMEOUT_SECONDS = 4.0


def port(words: list[str]) -> int:
    """The value of the last `--port` on a command line."""
    found = DEFAULT_PORT
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name == "--port":
            found = int(value if equals else following)
    return found


def status(connection: http.client.HTTPConnection, path: str) -> int:
    """The status of a GET."""
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def main(path: str) -> int:
    words = Path("/proc/1/cmdline").read_text(errors="replace").split("\0")
    address = ("127.0.0.1", port(words))
    try:
        answer = status(http.client.HTTPConnection(*address, timeout=TIMEOUT_SECONDS), path)
    except (http.client.HTTPException, ConnectionResetError):
        # Our own certificate on our own loopback address: there is nobody to be mistaken for.
        context = ssl._create_unverified_context()  # noqa: S323
        answer = status(http.client.HTTPSConnection(*address, timeout=TIMEOUT_SECONDS, context=context), path)
    sys.stdout.write(f"{answer} from port {address[1]}\n")
    return int(answer != 200)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
