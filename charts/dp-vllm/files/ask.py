"""Asks an OpenAI endpoint for a streamed answer and passes it on as it comes: what the pod of `helm test` runs.

The endpoint may just be being made: it is waited for. Any image with Python will do.
"""

import http.client
import json
import sys
import time
import urllib.error
import urllib.request

WAIT_SECONDS = 240.0
"""Less than helm waits for a test, so that the log says why."""
SILENCE_SECONDS = 30.0
PAUSE_SECONDS = 1.0

FAILURES = (OSError, http.client.HTTPException, ValueError, LookupError)
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # what is in the cluster is behind no proxy


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def opened(url: str, body: object = None) -> http.client.HTTPResponse:
    request = urllib.request.Request(url)  # noqa: S310 - the chart's URL
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
        request.add_header("X-Request-Id", "helm-test")  # as the logs of gateways and engines call it
    answer: http.client.HTTPResponse = OPENER.open(request, timeout=SILENCE_SECONDS)
    return answer


def first_model(base: str, wait_seconds: float) -> str:
    """What the model is called, once the endpoint says it. Raises what the last try raised."""
    end = time.monotonic() + wait_seconds
    said = ""
    while True:
        try:
            with opened(f"{base}/models") as answer:
                return str(json.load(answer)["data"][0]["id"])
        except FAILURES as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or time.monotonic() > end:
                raise
            if str(error) != said:
                said = str(error)
                say(f"waits: {said}\n")
        time.sleep(PAUSE_SECONDS)


def stream(base: str, model: str) -> int:
    """Pass an answer on; in how many pieces it came. It must have an end."""
    question = [{"role": "user", "content": "Does it stream?"}]
    body = {"model": model, "messages": question, "max_tokens": 16, "stream": True}
    count = 0
    with opened(f"{base}/chat/completions", body) as answer:
        for line in answer:
            event = line.decode().strip().removeprefix("data:").strip()
            if event == "[DONE]":
                return count
            if event.startswith("{"):
                told = json.loads(event)
                if "error" in told:
                    raise ValueError(event)
                piece = told["choices"][0]["delta"].get("content") or ""
                say(piece)
                count += bool(piece)
    raise ValueError("the answer has no end")


def main(endpoint: str, wait_seconds: str = str(WAIT_SECONDS)) -> None:
    base = endpoint.rstrip("/")
    try:
        model = first_model(base, float(wait_seconds))
        say(f"{model} at {base} says:\n")
        count = stream(base, model)
    except FAILURES as error:
        sys.exit(f"{base}: {error!r}\nsee: kubectl get dpm --all-namespaces --output=wide")
    if not count:
        sys.exit(f"{base}: the answer is empty")
    say(f"\nstreamed in {count} pieces\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
