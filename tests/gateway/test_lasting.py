"""Which changes are in force after any sequence of them."""

import json

from hypothesis import given
from hypothesis import strategies as st

from dp_vllm.engine.routes import ROUTES, route_of
from dp_vllm_gateway.lasting import MOST_CHANGE_BYTES, MOST_CHANGES, Change, Lasting


def change(method: str, target: str, **body: str) -> Change:
    return Change(method, target, b"", json.dumps(body).encode() if body else b"")


def note(lasting: Lasting, made: Change) -> None:
    lasting.note(route_of(made.method, made.target.partition("?")[0]), made)


NAMES = st.sampled_from(["sql", "law", "a b"])
LOADED = NAMES.map(lambda name: (f"lora {name}", change("POST", "/v1/load_lora_adapter", lora_name=name), True))
REGISTERED = NAMES.map(lambda name: (f"lora {name}", change("POST", "/adapters", name=name), True))
UNLOADED = NAMES.map(lambda name: (f"lora {name}", change("POST", "/v1/unload_lora_adapter", lora_name=name), False))
DELETED = NAMES.map(lambda name: (f"lora {name}", change("DELETE", f"/adapters/{name.replace(' ', '%20')}"), False))
SLEPT = st.sampled_from(["/sleep", "/sleep?level=2"]).map(lambda target: ("sleep", change("POST", target), True))
WOKEN = st.just(("sleep", change("POST", "/wake_up"), False))
PAUSED = st.just(("pause", change("POST", "/pause"), True))
RESUMED = st.just(("pause", change("POST", "/resume"), False))
PASSING = st.just(("", change("POST", "/reset_prefix_cache"), False))


@given(st.lists(st.one_of(LOADED, REGISTERED, UNLOADED, DELETED, SLEPT, WOKEN, PAUSED, RESUMED, PASSING)))
def test_in_force_is_the_last_change_of_each_thing_that_was_not_taken_back(
    made: list[tuple[str, Change, bool]],
) -> None:
    lasting = Lasting()
    for _, one, _ in made:
        note(lasting, one)
    last = {thing: (number, one, stays) for number, (thing, one, stays) in enumerate(made)}
    expected = [one for _, one, stays in sorted(last.values()) if stays]
    assert list(lasting.changes()) == expected


@given(st.binary() | st.sampled_from([b'{"lora_name": 1' + b"0" * 5_000 + b"}", b"[" * 9_000, b'{"lora_name": [NaN]}']))
def test_any_body_can_be_noted(body: bytes) -> None:
    lasting = Lasting()
    note(lasting, Change("POST", "/v1/load_lora_adapter", b"", body))
    assert len(lasting.changes()) == 1


def test_what_is_too_large_or_too_many_is_not_kept() -> None:
    lasting = Lasting()
    note(lasting, change("POST", "/v1/load_lora_adapter", lora_name="large", x="x" * MOST_CHANGE_BYTES))
    assert lasting.changes() == ()
    for number in range(MOST_CHANGES):
        note(lasting, change("POST", "/v1/load_lora_adapter", lora_name=str(number)))
    again, new = (change("POST", "/v1/load_lora_adapter", lora_name=name, path="/p") for name in ("0", "new"))
    note(lasting, again)
    note(lasting, new)
    assert len(lasting.changes()) == MOST_CHANGES
    assert again in lasting.changes() and new not in lasting.changes()


def test_what_a_route_takes_back_is_what_another_makes() -> None:
    made = {route.lasting for route in ROUTES if route.lasting}
    ended = {route.ends for route in ROUTES if route.ends}
    assert ended == made


def test_what_was_made_for_one_model_is_taken_back_for_it_or_for_all() -> None:
    lasting = Lasting()
    for_a, for_b, for_all = (change("POST", f"/sleep{query}") for query in ("?model=a", "?level=2&model=b", ""))
    for one in (for_a, for_b, change("POST", "/wake_up?model=a")):
        note(lasting, one)
    assert lasting.changes() == (for_b,)
    for one in (for_all, change("POST", "/wake_up?model=b")):
        note(lasting, one)
    assert lasting.changes() == (for_all,)
    for one in (for_a, change("POST", "/wake_up")):
        note(lasting, one)
    assert lasting.changes() == ()
