"""What the kubelet starts in a container: its words and its environment, `$(NAME)` expanded as the kubelet does. Pure.

Written after `ExpandContainerCommandAndArgs` and `makeEnvironmentVariables`, and on purpose without the product's own
code for it. Variables of Services are left out.
"""

from collections.abc import Callable, Mapping
from typing import Any

Object = dict[str, Any]


def words(container: Object, secrets: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The command line after the image's entry point; `secrets` are the Secrets of the namespace, by name and key."""
    known = environment(container, secrets)
    return [expand(word, known.get) for word in (*container.get("command", ()), *container.get("args", ()))]


def environment(container: Object, secrets: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Each variable sees those before it, and those of `envFrom`."""
    known: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        if "secretRef" in source:
            known |= secrets[source["secretRef"]["name"]]
    for variable in container.get("env", ()):
        if value := variable.get("value"):
            known[variable["name"]] = expand(value, known.get)
        elif key := variable.get("valueFrom", {}).get("secretKeyRef"):
            known[variable["name"]] = secrets[key["name"]][key["key"]]
        else:
            known[variable["name"]] = ""
    return known


def expand(text: str, value: Callable[[str], str | None]) -> str:
    """Replace each `$(NAME)` that has a value; `$$` is `$`."""
    made, at = "", 0
    while at < len(text):
        following = text[at + 1 : at + 2]
        end = text.find(")", at + 2)
        if text[at] != "$" or not following:
            made, at = made + text[at], at + 1
        elif following == "(" and end >= 0:
            name = text[at + 2 : end]
            found = value(name)
            made, at = made + (f"$({name})" if found is None else found), end + 1
        else:
            made, at = made + ("$" if following == "$" else f"${following}"), at + 2
    return made
