"""Asks an OpenAI endpoint for a streamed answer and prints it as it comes. `helm test` runs it in any image with Python.

The endpoint may be one that is just being made: it is waited for.
"""

import json
import sys
import time
import urllib.error
import urllib.request

WAIT_SECONDS = 240.0
"""Less than helm waits for a test, so that the log says why."""
SILENCE_SECONDS = 30.0
PAUSE_SECONDS = 1.0

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # what is in the cluster is behind no proxy


def opened(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    return OPENER.open(request, timeout=SILENCE_SECONDS)


def first_model(base, wait_seconds):
    """The name of the model, once the endpoint says it."""
    end = time.monotonic() + wait_seconds
    said = ""
    while True:
        try:
            with opened(base + "/models") as answer:
                return json.load(answer)["data"][0]["id"]
        except (OSError, ValueError, LookupError) as error:
            why = f"{base}/models: {error}"
            if isinstance(error, urllib.error.HTTPError) and error.code < 500 or time.monotonic() > end:
                sys.exit(f"{why}\nsee `kubectl get dpm --all-namespaces --output=wide`")
        if why != said:
            print(why, flush=True)
            said = why
        time.sleep(PAUSE_SECONDS)


def pieces(base, model):
    """The answer's text, piece by piece; it must have an end."""
    question = [{"role": "user", "content": "Does it stream?"}]
    body = {"model": model, "messages": question, "max_tokens": 16, "stream": True}
    with opened(base + "/chat/completions", body) as answer:
        for line in answer:
            event = line.decode().strip().removeprefix("data:").strip()
            if event == "[DONE]":
                return
            if event:
                yield json.loads(event)["choices"][0]["delta"].get("content") or ""
    sys.exit("\nthe answer has no end")


def main(endpoint, wait_seconds=WAIT_SECONDS):
    base = endpoint.rstrip("/")
    model = first_model(base, float(wait_seconds))
    print(f"{model} at {base} says:", flush=True)
    count = 0
    for piece in pieces(base, model):
        print(piece, end="", flush=True)
        count += bool(piece)
    if not count:
        sys.exit("the answer is empty")
    print(f"\nstreamed in {count} pieces")


if __name__ == "__main__":
    main(*sys.argv[1:])
