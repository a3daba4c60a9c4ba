"""Takes keys and tokens out of what is kept or shown of a program: its words, its environment, its log. Pure.

A value is secret by the name that it was given under (`--api-key`, `HF_TOKEN`, `AWS_SECRET_ACCESS_KEY`), and then it is
taken out wherever it stands; what looks like a well-known token goes in any case.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

HIDDEN: Final = "***"

_NAME: Final = re.compile(r"(?:^|[-_])(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_SHORTEST: Final = 6
"""Characters: whoever replaced every `1` would make a log unreadable, and no secret is so short."""

_TOKENS: Final = re.compile(
    r"\b(?:hf_|sk-|ghp_|github_pat_|xox[bp]-)[\w-]{16,}|(?<=Bearer )[\w.~+/=-]{6,}|(?<=://)[^\s/:@]*:[^\s/@]+(?=@)",
    re.IGNORECASE,
)
"""Of the hub, of OpenAI and others; what follows `Bearer`; user and password in a URL."""


class Redactor:
    """Knows the secrets of one program."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        given = (value for name, value in environment.items() if _NAME.search(name))
        found = {value for value in (*given, *_secret_words(argv)) if len(value) >= _SHORTEST}
        # The longest first, for one may be the beginning of another.
        self._secrets = sorted(found, key=lambda value: (-len(value), value))

    def text(self, text: str) -> str:
        """A log, a message: without any of the secrets."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        # Bytes that are no UTF-8 come from the environment as what no file takes.
        return _TOKENS.sub(HIDDEN, text).encode(errors="replace").decode()

    def words(self, argv: Sequence[str]) -> tuple[str, ...]:
        """A command line, also another program's: without the values of its secret flags, however short."""
        secret = set(_secret_words(argv))
        return tuple(self.text(_without(word, secret)) for word in argv)

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Variables, those with secret names without their values."""
        return {
            self.text(name): HIDDEN if _NAME.search(name) else self.text(value) for name, value in variables.items()
        }


def _secret_words(argv: Iterable[str]) -> Iterator[str]:
    """The values of flags with secret names: after `=`, or all words up to the next flag."""
    secret = False
    for word in argv:
        if word.startswith("-"):
            name, _, value = word.partition("=")
            secret = _NAME.search(name) is not None
            if secret and value:
                yield value
        elif secret:
            yield word


def _without(word: str, secret: set[str]) -> str:
    if word in secret:
        return HIDDEN
    name, equals, value = word.partition("=")
    return f"{name}={HIDDEN}" if equals and value in secret else word
