"""What the benchmark's engine answers: bytes in the shape of vLLM's, made once.

Every streamed chunk holds `MARK` exactly once, and nothing else in an answer holds it: whoever reads streams can count
chunks without parsing, and cannot miscount where a chunk is split between two reads.
"""

import functools
import json
from typing import Any, Final

MARK: Final = b"~"

MODEL: Final = "bench/Model-8B-Instruct"

_DATE: Final = 1795243429


def whole(body: bytes, content_type: str = "application/json", status: str = "200 OK") -> bytes:
    """A response with a Content-Length, with the headers that uvicorn gives it."""
    head = f"HTTP/1.1 {status}\r\ndate: Sat, 21 Nov 2026 06:13:49 GMT\r\nserver: uvicorn\r\n"
    return f"{head}content-length: {len(body)}\r\ncontent-type: {content_type}\r\n\r\n".encode() + body


def _json(value: dict[str, Any], status: str = "200 OK") -> bytes:
    return whole(json.dumps(value, separators=(",", ":")).encode(), status=status)


def _chunked(event: dict[str, Any] | str) -> bytes:
    """One event as one chunk of a chunked body, as uvicorn writes it."""
    text = event if isinstance(event, str) else json.dumps(event, separators=(",", ":"))
    data = f"data: {text}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-8a89cc2cbf3f0d7c",
        "object": "chat.completion.chunk",
        "created": _DATE,
        "model": MODEL,
        "choices": [
            {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason, "token_ids": None},
        ],
    }


STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ndate: Sat, 21 Nov 2026 06:13:49 GMT\r\nserver: uvicorn\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    + _chunked(_event({"role": "assistant", "content": ""}))
)
CHUNK: Final = _chunked(_event({"content": " tok~"}))
DONE: Final = b"data: [DONE]"
LAST_CHUNK: Final = _chunked(_event({"content": " tok~"}, "length")) + _chunked("[DONE]") + b"0\r\n\r\n"

_CHAT: Final = {
    "id": "chatcmpl-9ddfa4d6e5192f52",
    "object": "chat.completion",
    "created": _DATE,
    "model": MODEL,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "An answer of the benchmark's engine.", "refusal": None},
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
            "token_ids": None,
        }
    ],
    "service_tier": None,
    "system_fingerprint": "vllm-0.32.0-2463a1e5",
    "usage": {"prompt_tokens": 50, "total_tokens": 58, "completion_tokens": 8, "prompt_tokens_details": None},
    "prompt_logprobs": None,
    "kv_transfer_params": None,
}

_METRICS: Final = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="bench/Model-8B-Instruct"} 0.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="bench/Model-8B-Instruct"} 0.0
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="bench/Model-8B-Instruct"} 50.0
"""

_MODEL_CARD: Final = {"id": MODEL, "object": "model", "created": _DATE, "owned_by": "vllm", "root": MODEL}

STREAMED: Final = frozenset({b"/v1/chat/completions", b"/v1/completions"})

WHOLE: Final[dict[bytes, bytes]] = {
    b"/v1/chat/completions": _json(_CHAT),
    b"/v1/completions": _json(_CHAT),
    b"/v1/models": _json({"object": "list", "data": [{**_MODEL_CARD, "parent": None, "max_model_len": 32768}]}),
    b"/v1/chat/completions/render": _json(
        {"error": {"message": "only with --enable-scale-out", "type": "PermissionDeniedError", "code": 403}},
        "403 Forbidden",
    ),
    b"/version": _json({"version": "0.32.0"}),
    b"/load": _json({"server_load": 0}),
    b"/get_load": _json({"load": 0}),
    b"/get_model_info": _json({"model_path": MODEL, "tokenizer_path": MODEL, "is_generation": True}),
    b"/model_info": _json({"model_path": MODEL, "tokenizer_path": MODEL, "is_generation": True}),
    b"/get_server_info": _json({"model_path": MODEL, "served_model_name": MODEL, "dp_size": 1, "tp_size": 1}),
    b"/server_info": _json({"model_path": MODEL, "served_model_name": MODEL, "dp_size": 1, "tp_size": 1}),
    b"/metrics": whole(_METRICS, "text/plain; version=0.0.4; charset=utf-8"),
    b"/health": whole(b""),
    b"/ping": whole(b""),
}
"""Answers by path, whatever the method."""


@functools.cache
def tokenized(text_bytes: int) -> bytes:
    """The answer of `/tokenize` to a text of about that length."""
    count = text_bytes // 4
    return _json(
        {"count": count, "max_model_len": 32768, "tokens": list(range(1000, 1000 + count)), "token_strs": None}
    )


NOT_FOUND: Final = whole(b'{"detail":"Not Found"}', status="404 Not Found")
