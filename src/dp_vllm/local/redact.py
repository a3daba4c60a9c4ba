"""Takes keys and tokens out of what is kept or shown of a program: its words, its environment, its log. Pure.

A value is secret by the name that it was given under (`--api-key`, `HF_TOKEN`, `"s3_secret_access_key"` in JSON), and
then it is taken out wherever it stands; what looks like a well-known token goes in any case.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dp_vllm.engine.command import known_flags
from dp_vllm.engine.flags import Typed

HIDDEN: Final = "***"

_NAME: Final = re.compile(
    r"(?:^|_)(?:api_?keys?|key|access_key_id|token|secrets?|credentials?|authorization|bearer|cookie|connection_string)$"
    r"|(?:apikey|secretkey|password|passwords|passwd|passphrase|secret|_otlp_headers|_sas)$"
)
"""What a secret is called, in lower case with `_` between words."""

_NO_SECRET: Final = re.compile(r"(?:^|_)(?:bos|eos|pad|unk|sep|cls|mask|image|video|audio|stop|think|special)_token$")
"""A word of a model's vocabulary."""

_SHORTEST: Final = 6
"""Characters: whoever replaced every `1` would make a log unreadable, and no secret is so short."""

_TOKENS: Final = re.compile(
    r"\b(?:hf_|sk-|ghp_|gho_|glpat-|github_pat_|xox[bp]-)[\w-]{16,}"  # of the hub, of OpenAI and others
    r"|\bAKIA[0-9A-Z]{16}\b"  # of AWS
    r"|(?<=Bearer )[\w.~+/=-]{6,}"
    r"|(?<=://)[^\s/\"'<>]+(?=@)"  # user and password in a URL
    r"|(?<=[?&])(?P<name>[\w-]*(?:token|key|secret|password|signature|sig)=)[^\s&\"'<>]+",  # in its query
    re.IGNORECASE,
)


def is_secret(name: str) -> bool:
    """Whether what has this name is a secret: a flag, a variable, a key of JSON, in any spelling."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    words = re.sub(r"[-.\s]+", "_", words)
    return _NAME.search(words) is not None and _NO_SECRET.search(words) is None


class Redactor:
    """Knows the secrets of one program."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        given = [value for name, value in environment.items() if is_secret(name)]
        given += [one for value in environment.values() for one in _secrets_in_json(value)]
        found = {value for value in (*given, *_secret_values(argv)) if len(value) >= _SHORTEST}
        # The longest first, for one may be the beginning of another.
        self._secrets = sorted(found, key=lambda value: (-len(value), value))

    def text(self, text: str) -> str:
        """A log, a message: without any of the secrets."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        # Bytes that are no UTF-8 come from the environment as what no file takes.
        return _TOKENS.sub(_hidden, text).encode(errors="replace").decode()

    def words(self, argv: Sequence[str]) -> tuple[str, ...]:
        """A command line, also another program's: without the values of its secret flags, however short."""
        secret = set(_secret_values(argv))
        return tuple(self._word(word, secret) for word in argv)

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Variables, those with secret names without their values."""
        return {
            self.text(name): HIDDEN if is_secret(name) else self.text(_without_json_secrets(value))
            for name, value in variables.items()
        }

    def _word(self, word: str, secret: set[str]) -> str:
        if word in secret:
            return HIDDEN
        name, equals, value = word.partition("=")
        if equals and value in secret:
            return f"{name}={HIDDEN}"
        if equals and name.startswith("-"):
            return self.text(f"{name}={_without_json_secrets(value)}")
        return self.text(_without_json_secrets(word))


def _hidden(found: re.Match[str]) -> str:
    return (found["name"] or "") + HIDDEN


def _secret_values(argv: Sequence[str]) -> Iterator[str]:
    """The values of flags with secret names, in any spelling that vLLM takes, and those in JSON."""
    for item in known_flags().read(argv):
        if _is_secret_flag(item):
            yield from filter(None, item.values)
        for value in item.values or item.words:
            yield from _secrets_in_json(value)


def _is_secret_flag(item: Typed) -> bool:
    return bool(item.spelling) and (
        is_secret(item.spelling)
        or ("." not in item.spelling and item.flag is not None and is_secret(item.flag.name))
        or any(map(is_secret, item.candidates))
    )


def _secrets_in_json(text: str) -> Iterator[str]:
    for name, value in _pairs(_json(text)):
        if is_secret(name) and isinstance(value, str | int) and str(value):
            yield str(value)


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values, at any depth."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield str(name), one
            yield from _pairs(one)
    if isinstance(value, list):
        for one in value:
            yield from _pairs(one)


def _without_json_secrets(text: str) -> str:
    """The same text, unless it is JSON with secrets in it."""
    value = _json(text)
    return json.dumps(_redacted(value)) if any(is_secret(name) for name, _ in _pairs(value)) else text


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: HIDDEN if is_secret(str(name)) else _redacted(one) for name, one in value.items()}
    return [_redacted(one) for one in value] if isinstance(value, list) else value


def _json(text: str) -> Any:
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
