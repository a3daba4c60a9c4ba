"""Changes that no watch told of are found, and nothing else is."""

import asyncio
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm.kubernetes_api import MERGE, KubernetesApi
from dp_vllm_operator.announcements import LATE_SECONDS, Announcements


def test_what_a_watch_told_of_is_not_missed() -> None:
    changes = Announcements()
    changes.heard("a", "7", now=0)
    changes.listed({"a": "7"}, began=10, now=11)
    assert changes.overdue(1000) == []
    assert changes.missed(1000) == 0


@pytest.mark.parametrize("heard", [None, "6"], ids=["never", "an older version"])
def test_what_a_list_shows_and_no_watch_told_of_is_missed_after_a_minute(heard: str | None) -> None:
    changes = Announcements()
    if heard:
        changes.heard("a", heard, now=0)
    changes.listed({"a": "7", "b": "8"}, began=10, now=11)
    changes.heard("b", "8", now=12)
    assert changes.overdue(11 + LATE_SECONDS - 1) == []
    assert changes.overdue(11 + LATE_SECONDS) == ["a"]
    changes.listed({"a": "9", "b": "8"}, began=311, now=312)
    assert changes.overdue(312) == ["a"]
    assert changes.missed(312) == 1


@pytest.mark.parametrize("heard", ["7", "8", "10"])
def test_an_announcement_that_comes_late_ends_it(heard: str) -> None:
    changes = Announcements()
    changes.listed({"a": "7"}, began=0, now=1)
    changes.heard("a", "5", now=50)  # a watch that is behind
    assert changes.overdue(90) == ["a"]
    changes.heard("a", heard, now=100)
    assert changes.overdue(1000) == []
    assert changes.missed(1000) == 1, "it was late all the same"


def test_a_list_that_is_older_than_the_last_announcement_proves_nothing() -> None:
    changes = Announcements()
    changes.heard("a", "12", now=5)
    changes.heard("new", "13", now=5)  # made after the list was begun
    changes.listed({"a": "7"}, began=4, now=6)
    changes.listed({"a": "12", "new": "13"}, began=300, now=301)
    assert changes.overdue(1000) == []


def test_what_is_gone_is_forgotten() -> None:
    changes = Announcements()
    changes.listed({"a": "7"}, began=0, now=1)
    changes.listed({}, began=30, now=31)
    assert changes.overdue(1000) == []
    changes.heard("b", "9", now=40)
    changes.listed({}, began=50, now=51)
    changes.listed({"b": "9"}, began=100, now=101)
    assert changes.overdue(1000) == ["b"], "it is remembered though a list did not show it"


@pytest.mark.parametrize("end", ["gone", "interrupted"])
def test_what_was_missed_stays_counted(end: str) -> None:
    changes = Announcements()
    changes.listed({"a": "7"}, began=0, now=1)
    if end == "gone":
        changes.listed({}, began=300, now=301)
    else:
        changes.interrupted(301)
    assert changes.overdue(302) == []
    assert changes.missed(302) == 1


def test_while_the_api_server_is_away_nobody_can_be_told() -> None:
    changes = Announcements()
    changes.listed({"a": "7"}, began=0, now=1)
    for failed in range(0, 300, 30):
        changes.interrupted(failed)
        assert changes.overdue(failed) == []
    assert changes.overdue(270 + LATE_SECONDS - 1) == []
    assert changes.overdue(270 + LATE_SECONDS) == ["a"]


def test_an_announcement_that_comes_after_a_later_one_changes_nothing() -> None:
    changes = Announcements()
    changes.heard("a", "10", now=0)
    changes.heard("a", "9", now=1)
    changes.listed({"a": "10"}, began=2, now=3)
    assert changes.overdue(1000) == []


def test_versions_are_compared_as_numbers_where_they_are_some() -> None:
    changes = Announcements()
    changes.heard("a", "100", now=0)
    changes.heard("b", "x2", now=0)
    changes.listed({"a": "99", "b": "x1"}, began=1, now=2)
    assert changes.overdue(1000) == []


EVENTS = st.lists(
    st.tuples(st.sampled_from(["change", "change", "delete", "list"]), st.integers(0, 4), st.integers(0, 50)),
    max_size=60,
)


@given(events=EVENTS, deaf=st.booleans())
def test_a_watch_that_lags_is_no_alarm_and_one_that_is_deaf_is(events: list[tuple[str, int, int]], deaf: bool) -> None:
    """Every 10 s something happens. The watch tells of it up to 50 s later, or never of an object's last change."""
    changes, present, told = Announcements(), dict[str, str](), list[tuple[float, str, str]]()
    silent = {number: index for index, (event, number, _) in enumerate(events) if event == "change"} if deaf else {}
    for index, (event, number, lag) in enumerate(events):
        now, uid = index * 10.0, f"uid-{number}"
        if event == "delete":
            present.pop(uid, None)
        if event == "change":
            present[uid] = str(index)
        if event != "list" and silent.get(number) != index:
            told.append((now + lag, uid, str(index)))
        for heard in sorted(heard for heard in told if heard[0] <= now):
            changes.heard(heard[1], heard[2], heard[0])
            told.remove(heard)
        if event == "list":
            changes.listed(dict(present), began=now, now=now)
        if not deaf:
            assert changes.overdue(now) == []
    end = len(events) * 10.0 + 60
    for at, uid, version in sorted(told):
        changes.heard(uid, version, at)
    changes.listed(dict(present), began=end, now=end)
    unheard = {uid for uid, version in present.items() if silent.get(int(uid.removeprefix("uid-"))) == int(version)}
    assert set(changes.overdue(end + LATE_SECONDS)) == unheard


async def test_a_watch_of_the_real_api_server_announces_what_its_lists_show(api: KubernetesApi, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    changes, loop = Announcements(), asyncio.get_running_loop()

    async def watch() -> None:
        query = {"watch": "true", "timeoutSeconds": "60"}
        async with contextlib.aclosing(api.lines(path, query, silence_seconds=60)) as lines:
            async for line in lines:
                metadata = json.loads(line)["object"]["metadata"]
                changes.heard(metadata["uid"], metadata["resourceVersion"], loop.time())

    async def listed() -> set[str]:
        began = loop.time()
        items = (await api.request("GET", path))["items"]
        versions = {item["metadata"]["uid"]: item["metadata"]["resourceVersion"] for item in items}
        changes.listed(versions, began, loop.time())
        return set(changes.overdue(loop.time() + LATE_SECONDS))

    async def change(data: str) -> str:
        changed = await api.request("PATCH", f"{path}/one", body={"data": {"x": data}}, content_type=MERGE)
        return str(changed["metadata"]["uid"])

    watching = asyncio.create_task(watch())
    for name in ("one", "two", "three"):
        await api.request("POST", path, body={"metadata": {"name": name}})
    for number in range(20):
        await change(str(number))
    await api.request("DELETE", f"{path}/two")
    async with asyncio.timeout(20):
        while await listed():
            await asyncio.sleep(0.05)
    watching.cancel()
    await asyncio.wait([watching])
    assert await listed() == set()
    uid = await change("unheard of")
    assert await listed() == {uid}
