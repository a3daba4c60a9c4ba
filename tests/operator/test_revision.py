"""Which revision a spec needs, and what makes a new one."""

import dataclasses
from typing import Any

import msgspec
import pytest
import random_specs
from hypothesis import given
from models import SETTINGS, Json, model, part

from dp_vllm import names
from dp_vllm.spec import BadSpec
from dp_vllm_operator.model import Model
from dp_vllm_operator.render.pod import pod_template
from dp_vllm_operator.revision import (
    KEPT,
    PROVEN_ANNOTATION,
    STALLED_ANNOTATION,
    Existing,
    Missing,
    New,
    Revision,
    UserPart,
    controller_revision,
    last_proven,
    surplus,
    user_part,
    wanted,
)
from dp_vllm_operator.settings import Settings

NEWER = dataclasses.replace(SETTINGS, engine_image="vllm/vllm-openai:v0.33.0")


def stored(*models: Model, settings: Settings = SETTINGS) -> list[Revision]:
    """Revisions 1, 2, ... of these models, each read back from what the API server would keep."""
    return [read(controller_revision(model, new(model, number, settings))) for number, model in enumerate(models, 1)]


def new(model: Model, number: int, settings: Settings = SETTINGS) -> New:
    present = user_part(model, settings)
    return New(number, present, pod_template(model.name, present))


def read(body: Json, **annotations: str) -> Revision:
    body["metadata"] |= {"uid": f"uid of {body['metadata']['name']}", "annotations": annotations}
    return Revision.of(msgspec.json.decode(msgspec.json.encode(body)))


@pytest.mark.parametrize("annotation", ["", "x", "nan", "inf", "1e400", "-1", "0", "9" * 5000])
def test_what_is_no_time_is_not_read_as_one(annotation: str) -> None:
    assert read(controller_revision(model(), new(model(), 1)), **{STALLED_ANNOTATION: annotation}).stalled_at is None
    assert read(controller_revision(model(), new(model(), 1)), **{STALLED_ANNOTATION: "17.5"}).stalled_at == 17.5


def target(model: Model, revisions: list[Revision], settings: Settings = SETTINGS, **more: Any) -> Any:
    return wanted(model, revisions, settings, pod_template, **more)


def test_the_first_revision_is_number_one() -> None:
    assert target(model(), []) == new(model(), 1)


@given(random_specs.specs())
def test_a_stored_spec_is_found_again(fields: Json) -> None:
    one = model(**fields)

    assert stored(one)[0].user_part == user_part(one, SETTINGS)
    assert target(one, stored(one)) == Existing(1)


def test_a_revision_keeps_what_was_rendered() -> None:
    (revision,) = stored(model(template={"metadata": {"labels": {"a": "b"}}}))

    assert revision.template == pod_template("m", part(template={"metadata": {"labels": {"a": "b"}}}))
    assert (revision.number, revision.name) == (1, "m-1")


CHANGES: list[Json] = [
    {"model": "org/other"},
    {"servedModelName": "x"},
    {"tensorParallelSize": 2},
    {"pipelineParallelSize": 2},
    {"engine": {"image": "x"}},
    {"engine": {"args": ["--seed", "1"]}},
    {"engine": {"env": [{"name": "A", "value": "1"}]}},
    {"engine": {"resources": {"limits": {"memory": "1Gi"}}}},
    {"engine": {"accelerator": "none"}},
    {"engine": {"runAsUser": 7}},
    {"engine": {"startupTimeoutSeconds": 100}},
    {"engine": {"hangTimeoutSeconds": 100}},
    {"engine": {"shmSize": "1Gi"}},
    {"cache": {"existingClaim": "x"}},
    {"hfTokenSecretRef": {"name": "x"}},
    {"rollout": {"drainTimeoutSeconds": 7}},
    {"template": {"spec": {"nodeSelector": {"a": "b"}}}},
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_pod_shows_makes_a_new_revision(change: Json) -> None:
    assert target(model(**change), stored(model())) == new(model(**change), 2)


@pytest.mark.parametrize(
    "change",
    [
        {"replicas": 7},
        {"gateway": {"replicas": 3, "image": "x", "policy": "round-robin"}},
        {"apiKeySecretRef": {"name": "x"}},
        {"rollout": {"strategy": "Drain", "surgeTimeoutSeconds": 1, "progressDeadlineSeconds": 1, "paused": True}},
        {"template": {}},
        {"template": {"spec": {"enableServiceLinks": False}}},
        {"engine": {"image": SETTINGS.engine_image}},
    ],
)
def test_what_no_pod_shows_makes_none(change: Json) -> None:
    assert target(model(**change), stored(model())) == Existing(1)


def test_a_claim_that_grows_restarts_nothing() -> None:
    small, large = ({"claim": {"size": size, "retain": size == "1Gi"}} for size in ("1Gi", "2Gi"))

    assert target(model(cache=large), stored(model(cache=small))) == Existing(1)


def test_another_default_image_restarts_nothing() -> None:
    assert target(model(), stored(model()), NEWER) == Existing(1)


def test_another_address_to_listen_on_restarts_nothing() -> None:
    on_ipv6 = dataclasses.replace(SETTINGS, listen_address="::")

    assert target(model(), stored(model()), on_ipv6) == Existing(1)
    made = target(model(tensorParallelSize=2), stored(model()), on_ipv6)
    assert "::" in made.template["spec"]["containers"][0]["args"]


def test_a_revision_of_before_there_was_an_address_to_listen_on_is_the_same() -> None:
    body = controller_revision(model(), new(model(), 1))
    del body["data"]["userPart"]["listenAddress"]

    assert target(model(), [read(body)], dataclasses.replace(SETTINGS, listen_address="::")) == Existing(1)


def test_a_new_revision_has_the_defaults_of_its_day() -> None:
    made = target(model(tensorParallelSize=2), stored(model()), NEWER)

    assert made == new(model(tensorParallelSize=2), 2, NEWER)
    assert made.template["spec"]["containers"][0]["image"] == NEWER.engine_image


def test_another_operators_way_of_rendering_restarts_nothing() -> None:
    def newer(name: str, user_part: UserPart) -> Json:
        return pod_template(name, user_part) | {"newer": True}

    assert wanted(model(), stored(model()), NEWER, newer) == Existing(1)
    assert wanted(model(), [dataclasses.replace(stored(model())[0], template={})], NEWER, newer) == Existing(1)


def test_a_field_that_is_new_with_a_default_restarts_nothing() -> None:
    body = controller_revision(model(), new(model(), 1))
    del body["data"]["userPart"]["engine"]["hangTimeoutSeconds"]

    assert target(model(), [read(body)]) == Existing(1)


def test_another_default_of_an_old_field_restarts_nothing() -> None:
    """The API server has filled in the old default, here and there."""
    written = controller_revision(model(), new(model(), 1))["data"]["userPart"]

    assert written["engine"]["hangTimeoutSeconds"] == 180
    assert written["engine"]["runAsUser"] == 2000
    assert "image" not in written["engine"]


def test_what_cannot_be_read_any_more_is_not_the_same() -> None:
    body = controller_revision(model(), new(model(), 1))
    body["data"]["userPart"]["engine"]["hangTimeoutSeconds"] = "a while"
    revision = read(body)

    assert revision.user_part is None
    assert revision.template == pod_template("m", part())
    assert target(model(), [revision]) == new(model(), 2)


def test_a_spec_that_cannot_be_rendered_is_no_revision() -> None:
    bad = model(template={"spec": {"containers": [{"name": "engine", "image": "x"}]}})

    with pytest.raises(BadSpec, match=r"spec.engine.image"):
        target(bad, stored(model()))


def test_stored_parts_that_cannot_be_rendered_any_more_do_no_harm() -> None:
    def stricter(name: str, user_part: UserPart) -> Json:
        if user_part.tensor_parallel_size == 2:
            raise BadSpec("not two")
        return pod_template(name, user_part)

    assert wanted(model(), stored(model(), model(tensorParallelSize=2)), SETTINGS, stricter) == Existing(1)


def test_back_to_what_it_was_is_the_old_revision() -> None:
    revisions = stored(model(), model(tensorParallelSize=2), model(tensorParallelSize=4))

    assert target(model(tensorParallelSize=2), revisions) == Existing(2)


def test_the_newest_of_several_that_are_the_same_is_taken() -> None:
    assert target(model(), stored(model(), model(tensorParallelSize=2), model())) == Existing(3)


def test_numbers_that_pods_bear_are_not_given_out_again() -> None:
    assert target(model(), [], used={4, 2}).number == 5
    assert target(model(replicas=1, tensorParallelSize=2), stored(model()), used={1}).number == 2


# Annotations


def test_another_restart_makes_a_new_revision_once() -> None:
    restarted = model(annotations={names.RESTART_ANNOTATION: "1"})
    made = target(restarted, stored(model()))

    assert made == new(restarted, 2)
    assert made.template["metadata"]["annotations"][names.RESTART_ANNOTATION] == "1"
    assert target(restarted, stored(model(), restarted)) == Existing(2)
    assert target(model(annotations={names.RESTART_ANNOTATION: "2"}), stored(model(), restarted)).number == 3


def test_undo_is_the_target_for_as_long_as_it_stands() -> None:
    revisions = stored(model(), model(tensorParallelSize=2), model(tensorParallelSize=4))

    assert target(model(tensorParallelSize=8, annotations={names.UNDO_ANNOTATION: "1"}), revisions) == Existing(1)
    assert target(model(tensorParallelSize=4, annotations={}), revisions) == Existing(3)


@pytest.mark.parametrize("asked", ["7", "0", "-1", "1.0", "yes", "01"])
def test_there_is_no_going_back_to_what_there_is_not(asked: str) -> None:
    missing = target(model(annotations={names.UNDO_ANNOTATION: asked}), stored(model(), model(tensorParallelSize=2)))

    assert isinstance(missing, Missing)
    assert str(missing) == f"dpvllm.io/undo: revision {asked!r} does not exist; the revisions are 1, 2"


# Keeping


@pytest.mark.parametrize(
    ("proven", "last"),
    [
        ({}, None),
        ({1: "2030-01-01T00:00:00Z"}, 1),
        ({1: "2030-01-02T00:00:00Z", 3: "2030-01-01T00:00:00Z"}, 1),
        ({1: "true", 2: "true"}, 2),
    ],
)
def test_the_last_that_was_ready_is_known(proven: dict[int, str], last: int | None) -> None:
    bodies = [controller_revision(model(), new(model(), number)) for number in (1, 2, 3)]
    revisions = [
        read(body, **({PROVEN_ANNOTATION: proven[body["revision"]]} if body["revision"] in proven else {}))
        for body in bodies
    ]

    assert last_proven(revisions) == last
    assert [revision.number for revision in revisions if revision.proven] == list(proven)


def test_the_last_ten_are_kept_and_those_that_are_used() -> None:
    revisions = stored(*[model(tensorParallelSize=size) for size in range(1, KEPT + 5)])

    assert [revision.number for revision in surplus(revisions, used={2, 14})] == [4, 3, 1]
    assert surplus(revisions[:KEPT], used=()) == ()


def test_a_revision_belongs_to_its_model() -> None:
    body = controller_revision(model(), new(model(), 12))

    assert body["metadata"]["name"] == "m-12"
    assert body["metadata"]["namespace"] == "ns"
    assert body["metadata"]["labels"][names.MODEL_LABEL] == "m"
    assert body["metadata"]["ownerReferences"] == [model().owner]
