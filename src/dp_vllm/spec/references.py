"""`$(NAME)` in a container's variables and arguments, as Kubernetes reads it.

https://github.com/kubernetes/kubernetes/blob/master/third_party/forked/golang/expansion/expand.go
"""

import re
from collections.abc import Collection, Mapping
from typing import Final

_REFERENCE: Final = re.compile(r"\$(\$|\(([^)]*)\))")


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """The text with each `$(NAME)` replaced; one that is not known is left, and `$$` stands for `$`."""
    return _REFERENCE.sub(lambda found: "$" if found[1] == "$" else variables.get(found[2], found[0]), text)


def unexpanded(text: str, names: Collection[str]) -> str:
    """The text with references to these variables escaped: they come out as they are written."""
    return _REFERENCE.sub(lambda found: f"${found[0]}" if found[2] in names else found[0], text)


def escaped(text: str) -> str:
    """What has to be written so that the text is what comes out."""
    return text.replace("$", "$$") if "$$" in text or "$(" in text else text
