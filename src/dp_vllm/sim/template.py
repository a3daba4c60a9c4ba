"""Chat messages to one prompt text, in the manner of ChatML."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from dp_vllm.sim.errors import bad_request

_MEDIA_TOKENS: Final = 64
"""What an image or a sound costs in the prompt."""


def render(messages: Iterable[Mapping[str, Any]], tools: object = None, *, answer: bool = True) -> str:
    """The prompt's text. Raises Refusal for a message without a role."""
    parts = [f"<|im_start|>tools\n{json.dumps(tools, sort_keys=True)}<|im_end|>\n"] if tools else []
    for message in messages:
        role = message.get("role")
        if not isinstance(role, str):
            raise bad_request("Each message needs a role.", "messages")
        calls = message.get("tool_calls")
        said = _content(message.get("content")) + (json.dumps(calls, sort_keys=True) if calls else "")
        parts.append(f"<|im_start|>{role}\n{said}<|im_end|>\n")
    return "".join(parts) + ("<|im_start|>assistant\n" if answer else "")


def _content(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise bad_request("A message's content must be text or a list of parts.", "messages")
    return "".join(map(_part, content))


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise bad_request("A part of a message's content must be an object.", "messages")
    for field in ("text", "refusal", "thinking"):
        if isinstance(part.get(field), str):
            return str(part[field])
    digest = hashlib.sha256(json.dumps(part, sort_keys=True).encode("utf-8", "replace")).hexdigest()[:16]
    return f"<|{part.get('type', 'media')}:{digest}|>" + " pad" * _MEDIA_TOKENS
