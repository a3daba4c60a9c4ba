"""What the kubelet makes of a container's words and variables: the cases of Kubernetes' own tests of it."""

import pytest

from kubelet.container import environment, expand, words

VALUES = {"VAR_A": "A", "VAR_B": "B", "VAR_C": "C", "VAR_REF": "$(VAR_A)", "VAR_EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(VAR_A)_$(VAR_B)_$(VAR_C)", "A_B_C"),
        ("$$(VAR_B)_$(VAR_A)", "$(VAR_B)_A"),
        ("f000-$$VAR_A", "f000-$VAR_A"),
        ("foo\\\\$(VAR_C)bar", "foo\\\\Cbar"),
        ("$(VAR_A$(VAR_B))", "$(VAR_A$(VAR_B))"),
        ("%%$(VAR_REF)--$(VAR_REF)%%", "%%$(VAR_A)--$(VAR_A)%%"),
        ("foo$(VAR_EMPTY)bar", "foobar"),
        ("foo$(VAR_Awhoops!", "foo$(VAR_Awhoops!"),
        ("$?_boo_$!", "$?_boo_$!"),
        ("$(VAR_DNE)$$$$$", "$(VAR_DNE)$$$"),
    ],
)
def test_references_are_replaced(text: str, expanded: str) -> None:
    assert expand(text, VALUES.get) == expanded


def test_a_container_s_words_see_its_secrets() -> None:
    secret = {"valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    container = {
        "command": ["run"],
        "args": ["$(TOKEN)", "$(ALIAS)", "$(LATER)"],
        "env": [
            {"name": "ALIAS", "value": "$(TOKEN)"},
            {"name": "TOKEN", **secret},
            {"name": "LATER", "value": "$(TOKEN)!"},
        ],
        "envFrom": [{"secretRef": {"name": "more"}}],
    }
    secrets = {"hub": {"token": "hf_x"}, "more": {"OTHER": "y"}}

    assert words(container, secrets) == ["run", "hf_x", "$(TOKEN)", "hf_x!"]
    assert environment(container, secrets)["OTHER"] == "y"
