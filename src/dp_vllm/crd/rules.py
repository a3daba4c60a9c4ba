"""What the API server refuses that no type can say, in CEL, with messages that name the fix.

A rule that compares with the old object stands on a part that is always there, and compares what is set as well:
on an optional field itself it would be passed by removing the field and setting it again. Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from dp_vllm.crd.structural import Rule
from dp_vllm.spec import MOUNTED_AT, object_name, owned_flags, owned_variables
from dp_vllm.spec.owned_flags import Owned

OBJECT: Final = (
    Rule(
        f"self.metadata.name.matches('{object_name.PATTERN}') && self.metadata.name.size() <= {object_name.LONGEST}",
        object_name.MUST,
    ),
)

_OTHER_MODEL: Final = "make a new DPModel instead"

_CACHE_KINDS: Final = ("existingClaim", "claim", "hostPath")
_CACHE: Final = (
    Rule(
        f"[{', '.join(f'has(self.{kind})' for kind in _CACHE_KINDS)}].filter(given, given).size() <= 1",
        "existingClaim, claim and hostPath exclude each other; keep one of them",
    ),
    Rule(
        " && ".join(f"has(self.{kind}) == has(oldSelf.{kind})" for kind in _CACHE_KINDS),
        f"the kind of cache cannot be changed; {_OTHER_MODEL}",
    ),
)
_CLAIM: Final = (
    Rule(
        "has(self.storageClassName) == has(oldSelf.storageClassName) && "
        "(!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
        f"storageClassName cannot be changed; {_OTHER_MODEL}",
    ),
    Rule("self.accessMode == oldSelf.accessMode", f"accessMode cannot be changed; {_OTHER_MODEL}"),
    Rule(
        "quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0",
        f"size can only grow; {_OTHER_MODEL}",
        field=".size",
    ),
)

_ENGINE: Final = (
    Rule(
        "!has(self.accelerator) || !has(self.resources) || "
        "!(has(self.resources.limits) && self.accelerator in self.resources.limits || "
        "has(self.resources.requests) && self.accelerator in self.resources.requests)",
        "resources must not name the accelerator: a replica gets tensorParallelSize * pipelineParallelSize of it",
        field=".resources",
    ),
)
_USER: Final = (Rule("self != 0", "must not be 0, root: take a user's id, or -1 to let the platform choose"),)

_VARIABLE: Final = (
    Rule("!(has(self.value) && has(self.valueFrom))", "value and valueFrom exclude each other; keep one of them"),
)


def _list(texts: Iterable[str]) -> str:
    return f"[{', '.join(repr(text) for text in texts)}]"


def _variable(name: str, instead: str) -> Rule:
    if name.endswith("_"):
        return Rule(f"self.all(e, !e.name.startsWith('{name}'))", f"{name}*: {instead}")
    return Rule(f"self.all(e, e.name != '{name}')", f"{name}: {instead}")


def _owned(owned: Owned) -> Rule:
    """Looks at the name of each flag alone, since long values are costly."""
    words = owned_flags.words(owned)
    tests = [f"n.startsWith('{beginning}')" for beginning in words.beginnings]
    if words.whole:
        tests.append(f"n in {_list(words.whole)}")
    name = "[a.split('=', 2)[0].replace('_', '-')]"
    return Rule(
        f"self.all(a, !a.startsWith('-') || {name}.all(n, !({' || '.join(tests)})))",
        f"{', '.join(owned.shown)}: {owned.instead}",
    )


_ARGS: Final = (
    *(_owned(owned) for owned in owned_flags.OWNED),
    Rule(
        f"self.all(a, !a.startsWith('-') || !a.matches(r'{owned_flags.TWO_IN_ONE}'))",
        'a flag and its value are two items, or one joined by =: --max-model-len, "8192" or --max-model-len=8192',
    ),
    Rule(
        "self.size() == 0 || self[0].startsWith('-')",
        "the first item must be a flag, as --max-model-len; the model is spec.model",
    ),
    Rule("self.all(a, a != '--')", "`--` ends the flags: leave it out"),
)

_SPEC: Final = (
    Rule(
        f"!self.model.startsWith('{MOUNTED_AT}/') || has(self.template) || "
        + " || ".join(f"has(self.cache.{kind})" for kind in _CACHE_KINDS),
        f"nothing is at {MOUNTED_AT} without a cache: name cache.existingClaim or cache.hostPath, where the model is",
        field=".model",
    ),
)

PARTS: Final[Mapping[str, Sequence[Rule]]] = {
    "DPModelSpec": _SPEC,
    "Cache": _CACHE,
    "Claim": _CLAIM,
    "Engine": _ENGINE,
    "Engine.args": _ARGS,
    "Engine.env": tuple(_variable(name, instead) for name, instead in owned_variables.OWNED.items()),
    "Engine.runAsUser": _USER,
    "EnvVar": _VARIABLE,
}
"""By part, or field of a part."""
