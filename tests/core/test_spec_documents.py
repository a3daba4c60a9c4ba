"""DPModel objects in YAML files: what is read, and how a mistake is told with its file, line and field."""

import pytest

from dp_vllm.errors import BadSettings
from dp_vllm.spec import documents, object_name

HEAD = "apiVersion: dpvllm.io/v1alpha1\nkind: DPModel\nmetadata:\n  name: chat\n"
CHAT = HEAD + "spec:\n  model: m\n"
AUTOSCALER = "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: chat}\n"


def test_models_and_what_stands_beside_them_are_read_with_their_places() -> None:
    second = CHAT.replace("chat", "code")

    held = documents.read(f"# two\n{CHAT}---\n{AUTOSCALER}---\n{second}---\n", "f.yaml")

    assert [(one.where, one.name, one.spec.model) for one in held.models] == [
        ("f.yaml:2", "chat", "m"),
        ("f.yaml:13", "code", "m"),
    ]
    assert held.others == ("HorizontalPodAutoscaler chat",)
    assert held.models[0].given == {"model": "m"}


def indented(text: str) -> str:
    """An object as one of a list."""
    return "- " + text.rstrip("\n").replace("\n", "\n  ") + "\n"


@pytest.mark.parametrize("kind", ["v1\nkind: List", "dpvllm.io/v1alpha1\nkind: DPModelList"])
def test_the_objects_that_kubectl_prints_as_a_list_are_read(kind: str) -> None:
    kept = CHAT.replace("  name: chat\n", "  name: chat\n  uid: x\n  managedFields: [{manager: kubectl, f: {}}]\n")
    items = indented(kept + "status: {replicas: 1}\n") + indented(AUTOSCALER)

    held = documents.read(f"apiVersion: {kind}\nitems:\n{items}metadata:\n  resourceVersion: ''\n", "f.yaml")

    assert [(one.where, one.name, one.spec.model) for one in held.models] == [("f.yaml:4", "chat", "m")]
    assert held.others == ("HorizontalPodAutoscaler chat",)


LIST = "apiVersion: v1\nkind: List\nitems:\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LIST + indented(CHAT + "  replica: 1\n"), "f.yaml:10: chat: spec.replica is not a field; did you mean replic"),
        (LIST + "  []\n", "f.yaml:3: this List is empty: `kubectl get` found no object"),
        (LIST, "f.yaml:3: items: a List has a list of objects there"),
        (LIST + "- chat\n", "f.yaml:4: an object is a mapping, like `kind: DPModel`"),
        (LIST + indented(LIST + "- {}\n"), "f.yaml:4: a list within a list is not read; give the inner one alone"),
        (CHAT + "  replicas: x\n", "f.yaml:7: chat: spec.replicas: 'x' is not allowed; it must be a whole number"),
        (CHAT + "  replica: 1\n", "f.yaml:7: chat: spec.replica is not a field; did you mean replicas?"),
        (CHAT + "  gateway:\n    service: {prt: 1}\n", "f.yaml:8: chat: spec.gateway.service.prt is not a field; did"),
        (CHAT + "  engine: {env: [{name: A, valu: 1}]}\n", "f.yaml:7: chat: spec.engine.env[0].valu is not a field; "),
        (CHAT + "  engine:\n    args:\n    - --x\n    - -tp\n", "f.yaml:10: chat: spec.engine.args[1]: '-tp' is not"),
        (CHAT + "  cache:\n    claim: {}\n", "f.yaml:8: chat: spec.cache.claim.size is missing; it must be a number"),
        (CHAT + "  engine: {args: [--seed, 1]}\n", "f.yaml:7: chat: spec.engine.args[1]: 1 is not allowed; it must be"),
        (CHAT + "  replicas: 1\n  replicas: 2\n", "f.yaml:8: replicas is there twice; keep one of them"),
        (HEAD + "spec:\n", "f.yaml:5: chat: spec: null is not allowed; it must be a mapping"),
        (HEAD + "spec: {}\n", "f.yaml:5: chat: spec.model is missing; it must be a name as Qwen/Qwen3-8B or an"),
        (CHAT.replace("chat", "Chat"), "f.yaml:4: 'Chat' is not allowed; metadata.name must have at most 40 small"),
        (CHAT.replace("chat", "x" * 41), "f.yaml:4: 'xxxxx"),
        (CHAT.replace("  name: chat\n", ""), "f.yaml:3: metadata.name is missing; give the model a name"),
        (CHAT.replace("v1alpha1", "v2"), "f.yaml:1: apiVersion: 'dpvllm.io/v2' is not known; write dpvllm.io/v1alpha1"),
        (CHAT + "replicas: 2\n", "f.yaml:7: replicas is not a field of an object; does it belong to spec?"),
        ("model: m\n", "f.yaml:1: this is no DPModel; one begins with `apiVersion: dpvllm.io/v1alpha1` and `kind: "),
        ("\n\nserve me", "f.yaml:3: an object is a mapping, like `kind: DPModel`"),
        (CHAT + "  engine: [\n", "f.yaml:8: this is not YAML: expected the node content, but found '<stream end>'"),
        (CHAT + "  a: b: c\n", "f.yaml:7: this is not YAML: mapping values are not allowed here"),
        ("? [a]\n: b\n", "f.yaml:1: this is not YAML: found unhashable key"),
        ("!!python/object:os.system {}\n", "f.yaml:1: this is not YAML: could not determine a constructor"),
        ("a: \x00", "f.yaml: this is not YAML: unacceptable character #x0000"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_field(text: str, said: str) -> None:
    with pytest.raises(BadSettings) as error:
        documents.read(text, "f.yaml")

    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen/Qwen3-8B", "qwen3-8b"),
        ("/models/llama_3.1/", "llama-3-1"),
        ("org/123-go", "go"),
        ("org/" + "x" * 50, "x" * 40),
        ("org/" + "x" * 39 + "-y", "x" * 39),
        ("///", "model"),
    ],
)
def test_a_model_s_name_becomes_an_object_s(model: str, name: str) -> None:
    assert object_name.made_of(model) == name
    assert object_name.fits(name)
