"""`$(NAME)` in a container's variables and arguments, as Kubernetes reads it.

https://github.com/kubernetes/kubernetes/blob/master/third_party/forked/golang/expansion/expand.go
"""

import re
from collections.abc import Mapping
from typing import Final

_REFERENCE: Final = re.compile(r"\$(\$|\(([^)]*)\))")


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """The text with each `$(NAME)` replaced; one that is not known is left, and `$$` stands for `$`."""
    return _REFERENCE.sub(lambda found: "$" if found[1] == "$" else variables.get(found[2], found[0]), text)


def escaped(text: str) -> str:
    """What has to be written so that the text is what comes out."""
    return text.replace("$", "$$") if "$$" in text or "$(" in text else text
