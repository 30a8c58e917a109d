"""Boards and policies in a project: what differs, and made alike; nothing of others is touched."""

import copy
from typing import Any

import pytest
import requests

from observability.dashboards.cloud_monitoring import dashboard
from observability.dashboards.files import boards, policies
from observability.project import DASHBOARDS, POLICIES, Project, ProjectError, differences
from tests.observability.monitoring import FakeMonitoring, fake_monitoring

BOARDS = [dashboard(board) for board in boards()]
OTHERS = {"displayName": "Of somebody else", "gridLayout": {}}


@pytest.fixture
def fake() -> Any:
    with fake_monitoring() as found:
        yield found


def project(fake: FakeMonitoring, name: str = "p") -> Project:
    return Project(name, requests.Session(), fake.endpoint)


def applied(fake: FakeMonitoring, kind: Any, ours: list[dict[str, Any]]) -> int:
    there = project(fake)
    changes = there.changes(kind, ours)
    for change in changes:
        there.apply(change)
    return len(changes)


@pytest.mark.parametrize(("kind", "ours"), [(DASHBOARDS, BOARDS), (POLICIES, policies())], ids=["boards", "policies"])
def test_a_second_time_there_is_nothing_to_do(fake: FakeMonitoring, kind: Any, ours: list[dict[str, Any]]) -> None:
    assert applied(fake, kind, ours) == len(ours) == len(fake.objects)
    assert applied(fake, kind, ours) == 0
    assert len(fake.objects) == len(ours)


def test_what_others_have_there_stays(fake: FakeMonitoring) -> None:
    other = fake.add("p", "dashboards", OTHERS)
    applied(fake, DASHBOARDS, BOARDS)
    assert fake.objects[other["name"]] == other


def test_a_board_that_somebody_changed_is_made_ours_again(fake: FakeMonitoring) -> None:
    applied(fake, DASHBOARDS, BOARDS)
    name = next(iter(fake.objects))
    changed = copy.deepcopy(fake.objects[name])
    changed["mosaicLayout"]["tiles"][1]["widget"]["title"] = "Mine"
    fake.objects[name] = changed
    (change,) = project(fake).changes(DASHBOARDS, BOARDS)
    assert "mosaicLayout.tiles[1].widget.title" in str(change)
    assert applied(fake, DASHBOARDS, BOARDS) == 1
    assert applied(fake, DASHBOARDS, BOARDS) == 0


def test_who_changes_it_meanwhile_is_not_overwritten(fake: FakeMonitoring) -> None:
    applied(fake, DASHBOARDS, BOARDS)
    ours = copy.deepcopy(BOARDS[:1])
    ours[0]["displayName"] = "New"
    there = project(fake)
    (change,) = there.changes(DASHBOARDS, ours)
    there.apply(change)
    with pytest.raises(ProjectError, match="409 etag does not match"):
        there.apply(change)


def test_notification_channels_stay(fake: FakeMonitoring) -> None:
    ours = policies()
    applied(fake, POLICIES, ours)
    name = next(iter(fake.objects))
    fake.objects[name]["notificationChannels"] = ["projects/p/notificationChannels/1"]
    assert applied(fake, POLICIES, ours) == 0
    assert applied(fake, POLICIES, policies("https://example.org/books")) == len(ours)
    assert fake.objects[name]["notificationChannels"]
    assert "https://example.org/books/" in fake.objects[name]["documentation"]["content"]


def test_a_refusal_says_who_and_why(fake: FakeMonitoring) -> None:
    with pytest.raises(ProjectError, match="403 Permission denied on projects/forbidden/dashboards"):
        project(fake, "forbidden").changes(DASHBOARDS, BOARDS)


def test_an_api_that_is_not_there(fake: FakeMonitoring) -> None:
    fake.endpoint = "http://127.0.0.1:1"
    with pytest.raises(ProjectError, match="cannot be reached"):
        project(fake).changes(DASHBOARDS, BOARDS)


@pytest.mark.parametrize(
    ("ours", "theirs", "where"),
    [
        ({"a": 1}, {"a": 1, "more": 2}, []),
        ({"a": 0, "b": "", "c": [], "d": {"e": False}}, {}, []),
        ({"a": 1}, {"a": 2}, ["a is not as it should be"]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, ["a.b[1] is not as it should be"]),
        ({"a": [1]}, {"a": [1, 2]}, ["a is not as it should be"]),
        ({"a": {"b": 1}}, {}, ["a.b is not as it should be"]),
        ({"a": {"b": 1}}, {"a": 1}, ["a is not as it should be"]),
    ],
)
def test_differences(ours: Any, theirs: Any, where: list[str]) -> None:
    assert list(differences(ours, theirs)) == where
